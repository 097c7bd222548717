"""Parameters as the forward pass reads them, made from those that the learner keeps."""

import jax

from rlef_jax import sharding


class Reader:
    """Copies parameters into the dtype they are computed with, onto the devices, and whole along
    some axes of the mesh.

    `given` are the parameters as they lie on the devices, `abstract` the copies. Where the two are
    the same and nothing rests in the host's memory, nothing is copied. A tensor at a time: all at
    once would need room for as much again.
    """

    def __init__(self, params, convert, mesh, whole: tuple[str, ...] = (), offload: bool = False):
        """`params` may be abstract; `convert` tells the dtypes that they are computed with, as
        `llama.compute_params` does.
        """
        read = jax.eval_shape(convert, params)
        self.given = sharding.placed(params, sharding.shardings(params, mesh))
        self.abstract = sharding.placed(read, sharding.shardings(read, mesh, whole))
        self.copies = offload or self.abstract != self.given
        program = lambda leaf: jax.jit(lambda x: x.astype(leaf.dtype), out_shardings=leaf.sharding)
        self._programs = jax.tree.map(program, self.abstract)

    def __call__(self, params):
        if not self.copies:
            return params

        def copy(program, leaf, given, wanted):
            if leaf.dtype == wanted.dtype and getattr(leaf, "sharding", None) == wanted.sharding:
                return leaf  # such as all of a reference that was read before
            return program(jax.device_put(leaf, given.sharding))

        return jax.tree.map(copy, self._programs, params, self.given, self.abstract)
