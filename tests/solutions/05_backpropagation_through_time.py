my_gain = theory.critical_gain(0.16)

my_half_life = float(np.log(0.5) / np.log(jax.nn.sigmoid(4.0)))
