def my_absolute(C, D):
    total = C.sum(axis=1, keepdims=True)
    saved = D * (C > 0).sum(axis=1, keepdims=True) / total
    return np.maximum(C - D, 0) / total + saved * C.sum(axis=0) / C.sum()


def my_mixture(first, second):
    weight = 0.5
    for _ in range(5000):
        weight = np.mean(weight * first / (weight * first + (1 - weight) * second))
    return weight
