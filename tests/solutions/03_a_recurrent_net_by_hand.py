def my_grad_x(params, xs, hs):
    by_h, found = hs[-1] - y, []
    for t in range(len(xs), 0, -1):
        delta = by_h * (1 - hs[t] ** 2)
        found.append(params["W_x"] @ delta)
        by_h = params["W_h"] @ delta
    return np.array(found[::-1])


def my_forward(params, xs, mask):
    h, found = np.zeros(H), []
    for x, is_real in zip(xs, mask, strict=True):
        if is_real:
            h = np.tanh(x @ params["W_x"] + h @ params["W_h"] + params["b"])
        found.append(h)
    return np.array(found)
