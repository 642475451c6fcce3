my_bias = float(np.log(2 ** (1 / 100) - 1))


def my_gru(params):
    return {"r": params["f"], "z": params["f"], "n": params["n"]}


def my_join(first, then):
    (a1, b1), (a2, b2) = first, then
    return a2 * a1, a2 * b1 + b2
