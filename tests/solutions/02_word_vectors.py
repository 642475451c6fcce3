def my_ppmi(N):
    chance = np.outer(N.sum(axis=1), N.sum(axis=0)) / N.sum()
    return np.log(np.maximum(N / chance, 1.0))


def my_slope(v_c, u_o, u_drawn):
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    return -sigmoid(-u_o @ v_c) * u_o + sigmoid(u_drawn @ v_c) @ u_drawn
