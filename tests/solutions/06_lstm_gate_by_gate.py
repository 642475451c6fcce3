my_bias = float(-np.log(2 ** (1 / 100) - 1))

my_cell = LSTM(H, forget_gate=1.0, input_gate=1.0)
