"""Connects an episode to tokenizer, prompts and executor: its messages as tokens, its programs run.

A driver (`rollout`, `scripted`) plays an episode in three calls: `receive_response` takes what the
model said, `submit` starts the program that the episode waits for, if any, and `receive` takes its
result. In between the episode waits for a response, or is over.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

import executor
from rlef_jax.episode import (
    receive_message,
    receive_response,
    receive_tests,
    receive_verdict,
    start,
)
from rlef_jax.prompts import Messages, extract_program, fenced
from rlef_jax.tokenizer import Tokenizer
from rlef_jax.tokenizer.layouts import ChatLayout
from rlef_jax.types import Episode, Noise, Problem, Status

# The program that random feedback runs where none of another problem's wrong solutions fails its
# tests (paper, section 3.3 and appendix C.2).
_NOT_IMPLEMENTED = "raise NotImplementedError()"
# How often a program is submitted before its episode is given up because the sandbox fails. The
# pool tries each twice by itself. Conversations with more programs would be lost more often, and
# those that are left be a biased sample.
_ATTEMPTS = 5
# Characters of a public test's output that an episode holds, and hosts tell each other: more than
# feedback and records of episodes show.
_KEPT = 4096


@dataclasses.dataclass(frozen=True)
class Environment:
    """What an episode needs from outside: tokenizer, wording, executor, rules of the conversation.

    Raises ValueError for caps or problems with which no conversation could be held.
    """

    tokenizer: Tokenizer
    layout: ChatLayout
    messages: Messages
    pool: executor.Pool
    comparison: str  # of outputs, where a problem has no checker of its own
    turn_limit: int
    cut_response: str  # what a response that was cut at its cap does: turn or end
    feedback: str  # true, random or none; with none every conversation takes all its turns
    max_prompt_tokens: int
    max_response_tokens: int
    max_feedback_tokens: int
    seed: int
    others: Sequence[Problem] = ()  # whose wrong solutions random feedback runs; some have none
    block: str = "first"  # which block of a response is the program, see `extract_program`

    def __post_init__(self):
        if self.max_feedback_tokens < self.layout.overhead:
            raise ValueError(
                f"episode.max_feedback_tokens is {self.max_feedback_tokens}: "
                f"it must be at least {self.layout.overhead}, the tokens around a message"
            )
        if self.feedback == "random" and not _at_least_two_lend(self.others):
            raise ValueError(
                "episode.feedback is 'random', but the data set knows no wrong solutions of other "
                "problems to run"
            )

    # ---- tokens of a prompt and of a response ----------------------------------------------------

    def prompt(self, problem: Problem) -> list[int]:
        """The stream up to where the model speaks first."""
        message_ids = self.tokenizer.encode(self.messages.first_message(problem).strip())
        return [*self.layout.first(message_ids), *self.prefill(problem)]

    def prefill(self, problem: Problem) -> list[int]:
        """The tokens that start each response: part of the prompt, not sampled (I3, I8)."""
        text = self.messages.start_of_response(problem)
        return self.tokenizer.encode(text) if text else []

    def needs(self, problem: Problem) -> tuple[int, int]:
        """(tokens of the prompt, tokens of feedback that prefill and layout take) of a problem."""
        return len(self.prompt(problem)), len(self.prefill(problem)) + self.layout.overhead

    def fits(self, needs: tuple[int, int]) -> bool:
        """Whether the caps hold a problem's needs; the prefill counts as feedback."""
        return needs[0] <= self.max_prompt_tokens and needs[1] <= self.max_feedback_tokens

    def response_tokens(self, program: str) -> list[int]:
        """The response that holds just this program, with the token that ends it, within the cap.

        Raises ValueError where responses are pre-filled: a whole program is no continuation.
        """
        if self.messages.prefill:
            raise ValueError(
                "there are no demonstrations for a data.prompt that pre-fills responses: "
                "set sft.steps to 0"
            )
        tokens = [*self.tokenizer.encode(fenced(program)), self.layout.end]
        return tokens[: self.max_response_tokens]

    # ---- playing an episode ----------------------------------------------------------------------

    def start(self, id: int, problem: Problem) -> Episode:
        return start(id, problem, self.prompt(problem))

    def receive_response(self, episode: Episode, tokens, logprobs) -> Episode:
        """Takes the sampled tokens of a response, int [n], with their log-probs, float [n]."""
        # Decoded together: some tokenizers drop the blank that a text starts with.
        said = [*self.prefill(episode.problem), *map(int, tokens)]
        text = self.tokenizer.decode(said)
        program = extract_program(text, self.block)
        episode = receive_response(episode, tokens, logprobs, text, program)
        return episode if program is not None else self.receive(episode, None)

    def submit(self, episode: Episode) -> Future | None:
        """Starts the program that the episode waits for: a future of its result, None without one.

        Nothing of the result on private tests but pass or fail goes any further (I7).
        """
        match episode.status:
            case Status.TESTS:
                return self._on_public_tests(episode.turns[-1].program, episode.problem)
            case Status.MESSAGE:
                return self._on_public_tests(*self._drawn(episode))
            case Status.VERDICT:
                problem = episode.problem
                program, tests = episode.turns[-1].program, problem.private_tests
                return self._run(program, problem, tests, True, keep_output=0)
        return None

    def receive(self, episode: Episode, result: executor.Result | None) -> Episode:
        """Takes the result of what was submitted, None for a response without a program.

        The message that follows a program is spliced at once, but for random feedback, which has to
        run another program first. Where the sandbox failed, the program is to be submitted again.
        """
        lost = result is not None and result.lost
        if lost and episode.failures + 1 < _ATTEMPTS:
            return dataclasses.replace(episode, failures=episode.failures + 1)
        episode = dataclasses.replace(episode, failures=0)
        match episode.status:
            case Status.TESTS:
                is_last, ends_when_passed = self._is_last_turn(episode), self.feedback != "none"
                episode = receive_tests(episode, result, is_last, ends_when_passed)
                if episode.status != Status.MESSAGE or self.feedback == "random":
                    return episode
                return self._tell(episode, self._message(episode))
            case Status.MESSAGE:
                return self._receive_drawn(episode, result)
            case _:
                return receive_verdict(episode, result)

    def _is_last_turn(self, episode: Episode) -> bool:
        was_cut = int(episode.stream.tokens_T[-1]) not in self.layout.stops
        ends = was_cut and self.cut_response == "end"
        return ends or len(episode.turns) >= self.turn_limit

    def _on_public_tests(self, program: str, problem: Problem) -> Future:
        first_only = self.messages.feedback.max_failures == 1
        return self._run(program, problem, problem.public_tests, first_only, _KEPT)

    def _run(
        self,
        program: str,
        problem: Problem,
        tests,
        stop_at_first_failure: bool,
        keep_output: int,
    ) -> Future:
        job = executor.Job(
            program,
            tests,
            problem.limits,
            problem.checker or self.comparison,
            stop_at_first_failure,
            keep_output=keep_output,
        )
        return self.pool.submit(job)

    # ---- messages --------------------------------------------------------------------------------

    def _message(self, episode: Episode) -> str:
        turn, tests = episode.turns[-1], episode.problem.public_tests
        template = self.messages.feedback_on(tests)
        fits = self._fits_between_turns(episode.problem)
        if self.feedback == "none":
            return executor.cut_to_fit(self.messages.no_feedback, template.footer, fits)
        if turn.result is None:
            return executor.cut_to_fit(template.invalid, template.footer, fits)
        failed = turn.valid and not turn.result.passed
        if failed and (without_body := self.messages.without_body(turn.program)):
            return executor.cut_to_fit(without_body, template.footer, fits)
        return executor.feedback(turn.result, tests, template, fits)

    def _fits_between_turns(self, problem: Problem) -> Callable[[str], bool]:
        """Says whether a message is within `max_feedback_tokens`, with layout and prefill."""
        room = self.max_feedback_tokens - self.layout.overhead - len(self.prefill(problem))

        def fits(message: str) -> bool:
            return len(self.tokenizer.encode(message.strip())) <= room

        return fits

    def _tell(self, episode: Episode, message: str) -> Episode:
        """Splices a message that fits, and what the next response is pre-filled with."""
        prefill = self.prefill(episode.problem)
        message_ids = self.tokenizer.encode(message.strip())
        last = int(episode.stream.tokens_T[-1])
        tokens = [*self.layout.splice(message_ids, last), *prefill]
        return receive_message(episode, self.tokenizer.decode(message_ids), tokens)

    # ---- random feedback -------------------------------------------------------------------------

    def _drawn(self, episode: Episode) -> tuple[str, Problem]:
        """A wrong program of another problem, chosen by seed, episode and turn (section 3.3).

        All wrong programs of that problem are tried, in random order, then `_NOT_IMPLEMENTED`.
        """
        stream = (self.seed, Noise.FEEDBACK, episode.id, len(episode.turns))
        rng = np.random.default_rng(stream)
        other = episode.problem
        while other.name == episode.problem.name or not other.incorrect_solutions:
            other = self.others[rng.integers(len(self.others))]
        wrong = other.incorrect_solutions
        first = rng.integers(len(wrong))
        rest = rng.permutation(np.delete(np.arange(len(wrong)), first))
        programs = [*(wrong[i] for i in (first, *rest)), _NOT_IMPLEMENTED]
        return programs[episode.drawn], other

    def _receive_drawn(self, episode: Episode, result: executor.Result) -> Episode:
        """Tells how the drawn program failed; one that fails nothing gives way to the next."""
        _, other = self._drawn(episode)
        fits = self._fits_between_turns(episode.problem)
        template = self.messages.feedback_on(other.public_tests)
        if not (result.passed or result.lost):
            message = executor.feedback(result, other.public_tests, template, fits)
            return self._tell(episode, message)
        if episode.drawn < len(other.incorrect_solutions):
            return dataclasses.replace(episode, drawn=episode.drawn + 1)
        message = executor.cut_to_fit(self.messages.no_feedback, template.footer, fits)
        return self._tell(episode, message)


def _at_least_two_lend(problems: Sequence[Problem]) -> bool:
    """Whether two problems have known wrong solutions; reads no further than it takes to know."""
    lenders = (problem.name for problem in problems if problem.incorrect_solutions)
    first = next(lenders, None)
    return any(name != first for name in lenders)
