@dataclass(frozen=True)
class Frozen:
    hidden_size: int

    def init(self, key, input_size):
        return {"n": init_affine(key, input_size, self.hidden_size)}

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["n"]["b"].dtype)

    def step(self, params, h, x):
        return 0.5 * h + 0.5 * jnp.tanh(affine(params["n"], x, h))

    def output(self, h):
        return h


@dataclass(frozen=True)
class Coupled:
    hidden_size: int

    def init(self, key, input_size):
        keys = jax.random.split(key)
        return {
            k: init_affine(key, input_size, self.hidden_size)
            for k, key in zip("fg", keys, strict=True)
        }

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["f"]["b"].dtype)

    def step(self, params, c, x):
        h = jnp.tanh(c)
        f = jax.nn.sigmoid(affine(params["f"], x, h))
        return f * c + (1 - f) * jnp.tanh(affine(params["g"], x, h))

    def output(self, c):
        return jnp.tanh(c)
