my_level = 9 / (9 + 1)


def my_split(ids, rng):
    storms = np.unique(ids)
    return np.isin(ids, rng.permutation(storms)[: len(storms) // 3])


def my_score(predicted, true):
    return np.sum(np.expm1(np.abs(predicted - true) / 10))
