"""The world a model acts in: messages as tokens, programs run, feedback chosen. Between the pure
episode and its rollout.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

import executor
from rlef_jax import episode as episodes
from rlef_jax.datasets.selection import Selection
from rlef_jax.prompts import MESSAGES, Messages, fenced
from rlef_jax.runtime.progress import progress
from rlef_jax.tokenizer import Tokenizer
from rlef_jax.tokenizer.layouts import ChatLayout
from rlef_jax.types import Episode, Problem

# What the random-feedback ablation shows when another problem's wrong solution fails none of its
# tests (paper, section 3.3).
_NOT_IMPLEMENTED = "raise NotImplementedError()"


@dataclasses.dataclass(frozen=True)
class Environment:
    """Everything an episode needs from outside: tokenizer, wording, executor, and the rules of the
    conversation.

    `others` are problems from whose known wrong solutions the random-feedback ablation takes its
    messages; some may have none.
    """

    tokenizer: Tokenizer
    layout: ChatLayout
    messages: Messages
    pool: executor.Pool
    comparison: str  # of outputs, where a problem has no checker of its own
    turn_limit: int
    cut_response: str  # what a response that was cut at its cap does: turn or end
    feedback: str  # true, random or none
    max_prompt_tokens: int
    max_response_tokens: int
    max_feedback_tokens: int
    seed: int
    others: Sequence[Problem] = ()

    def __post_init__(self):
        if self.max_feedback_tokens < self.layout.overhead:
            raise ValueError(
                f"episode.max_feedback_tokens is {self.max_feedback_tokens}: it must be at least {self.layout.overhead}, "
                "the tokens around a message"
            )
        if self.feedback == "random" and not _at_least_two_lend(self.others):
            raise ValueError(
                "episode.feedback is 'random', but the data set knows no wrong solutions of other problems to run"
            )

    def prompt(self, problem: Problem) -> list[int]:
        """The stream up to where the model speaks first."""
        message_ids = self.tokenizer.encode(self.messages.first_message(problem).strip())
        return [*self.layout.first(message_ids), *self.prefill(problem)]

    def prefill(self, problem: Problem) -> list[int]:
        """The tokens that each response is started with. They belong to the prompt: nobody samples
        them (I3, I8).
        """
        text = self.messages.start_of_response(problem)
        return self.tokenizer.encode(text) if text else []

    def needs(self, problem: Problem) -> tuple[int, int]:
        """What the caps must hold of a problem: tokens of its prompt, and those of feedback that
        prefill and layout take.
        """
        return len(self.prompt(problem)), len(self.prefill(problem)) + self.layout.overhead

    def fits(self, needs: tuple[int, int]) -> bool:
        """Whether the prompt keeps to `max_prompt_tokens`, and the prefill, which counts as
        feedback, leaves room for some.
        """
        return needs[0] <= self.max_prompt_tokens and needs[1] <= self.max_feedback_tokens

    def start(self, id: int, problem: Problem) -> Episode:
        return episodes.start(id, problem, self.prompt(problem))

    def response_tokens(self, program: str) -> list[int]:
        """The response that a demonstration gives: the fenced program and the token that ends it,
        within the cap.

        Raises ValueError where responses are pre-filled: a whole program is no continuation.
        """
        if self.messages.prefill:
            raise ValueError(
                "there are no demonstrations for a data.prompt that pre-fills responses: set sft.steps to 0"
            )
        return [*self.tokenizer.encode(fenced(program)), self.layout.end][
            : self.max_response_tokens
        ]

    def receive_response(self, episode: Episode, tokens, logprobs) -> Episode:
        # Decoded together: some tokenizers drop the blank that a text starts with.
        said = [*self.prefill(episode.problem), *map(int, tokens)]
        return episodes.receive_response(episode, tokens, logprobs, self.tokenizer.decode(said))

    def submit_public(self, episode: Episode) -> Future | None:
        """Starts the last program on the public tests; None when there is no program to run."""
        program = episode.turns[-1].program
        if program is None:
            return None
        return self.pool.submit(self._public_job(program, episode.problem))

    def submit_private(self, episode: Episode) -> Future:
        """Starts the final program on the private tests. Nothing of their result but pass or fail
        goes any further (I7).
        """
        problem = episode.problem
        return self.pool.submit(
            self._job(episode.turns[-1].program, problem, problem.private_tests, True)
        )

    def receive_public(self, episode: Episode, result: executor.Result | None) -> Episode:
        """Takes the public result; when the conversation goes on, splices the message about it."""
        last = int(episode.stream.tokens_T[-1])
        was_cut = last not in self.layout.stops
        turn_limit = (
            len(episode.turns) if was_cut and self.cut_response == "end" else self.turn_limit
        )
        if episodes.is_over(episode, result, turn_limit):
            return episodes.receive_feedback(episode, result, turn_limit)
        prefill = self.prefill(episode.problem)
        message_ids = self._capped(
            self.tokenizer.encode(self._message(episode, result).strip()), len(prefill)
        )
        tokens = [*self.layout.splice(message_ids, last), *prefill]
        return episodes.receive_feedback(
            episode, result, turn_limit, self.tokenizer.decode(message_ids), tokens
        )

    def _capped(self, message_ids: list[int], prefilled: int) -> list[int]:
        """A message within its share of `max_feedback_tokens`: cut in the middle of what failed,
        never in what to do next.
        """
        room = self.max_feedback_tokens - self.layout.overhead - prefilled
        if len(message_ids) <= room:
            return message_ids
        footer = self.messages.feedback.footer
        footer_ids = self.tokenizer.encode(footer) if footer else []
        return [*message_ids[: max(room - len(footer_ids), 0)], *footer_ids][:room]

    def _public_job(self, program: str, problem: Problem) -> executor.Job:
        first_only = self.messages.feedback.max_failures == 1
        return self._job(program, problem, problem.public_tests, first_only)

    def _job(
        self, program: str, problem: Problem, tests, stop_at_first_failure: bool
    ) -> executor.Job:
        return executor.Job(
            program,
            tests,
            problem.limits,
            problem.checker or self.comparison,
            stop_at_first_failure,
        )

    def _message(self, episode: Episode, result: executor.Result | None) -> str:
        template = self.messages.feedback
        if self.feedback == "none":
            return self.messages.no_feedback
        if self.feedback == "random":
            return self._random_feedback(episode)
        if result is None:
            return template.invalid
        return executor.feedback(result, episode.problem.public_tests, template)

    def _random_feedback(self, episode: Episode) -> str:
        """Feedback about a wrong solution of another problem, chosen by seed, episode and turn."""
        rng = np.random.default_rng((self.seed, episode.id, len(episode.turns)))
        other = episode.problem
        while other.name == episode.problem.name or not other.incorrect_solutions:
            other = self.others[rng.integers(len(self.others))]
        wrong = other.incorrect_solutions[rng.integers(len(other.incorrect_solutions))]
        for program in (wrong, _NOT_IMPLEMENTED):
            result = self.pool.submit(self._public_job(program, other)).result()
            if not result.passed and result.verdict != executor.Verdict.INFRASTRUCTURE:
                return executor.feedback(result, other.public_tests, self.messages.feedback)
        return self.messages.no_feedback


def _at_least_two_lend(problems: Sequence[Problem]) -> bool:
    """Whether two different problems have known wrong solutions; reads no further than it takes to
    know.
    """
    lenders = (problem.name for problem in problems if problem.incorrect_solutions)
    first = next(lenders, None)
    return any(name != first for name in lenders)


def from_config(
    config, tokenizer: Tokenizer, pool: executor.Pool, problems: Sequence[Problem]
) -> Environment:
    """The environment that a run's configuration describes; `problems` lend their wrong solutions
    to random feedback.
    """
    e = config.episode
    return Environment(
        tokenizer=tokenizer,
        layout=ChatLayout.make(config.tokenizer.layout, tokenizer, config.tokenizer.system),
        messages=MESSAGES[config.data.prompt],
        pool=pool,
        comparison=config.data.comparison,
        turn_limit=e.turn_limit,
        cut_response=e.cut_response,
        feedback=e.feedback,
        max_prompt_tokens=e.max_prompt_tokens,
        max_response_tokens=e.max_response_tokens,
        max_feedback_tokens=e.max_feedback_tokens,
        seed=config.seed,
        others=problems,
    )


def fitting(problems: Sequence[Problem], environment: Environment, split: str) -> Sequence[Problem]:
    """The problems whose first message, and prefill, are short enough, none of them held; says how
    many are not.
    """
    if not problems:
        raise ValueError(f"the {split} split has no problems")
    with progress(len(problems), f"tokens of {split}", "problem", part=True) as bar:
        needs = []
        for problem in problems:
            needs.append(environment.needs(problem))
            bar.update()
    kept = [place for place, need in enumerate(needs) if environment.fits(need)]
    if len(kept) < len(problems):
        caps = f"episode.max_prompt_tokens={environment.max_prompt_tokens}"
        needed = f"episode.max_prompt_tokens={max(prompt for prompt, _ in needs)}"
        if environment.messages.prefill:
            caps += f", or what pre-fills responses into episode.max_feedback_tokens={environment.max_feedback_tokens}"
            least = max(feedback for _, feedback in needs)
            needed += f" and episode.max_feedback_tokens={least}, better more: that leaves feedback no room"
        if not kept:
            raise ValueError(
                f"no problem of the {split} split fits into {caps}: all would into {needed}"
            )
        left_out = len(problems) - len(kept)
        print(
            f"{split}: {left_out} of {len(problems)} problems do not fit into {caps}, left out; all would into {needed}"
        )
    return Selection(problems, kept)
