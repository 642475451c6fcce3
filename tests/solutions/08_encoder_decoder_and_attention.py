def my_weights(queries, memory, mask):
    scores = queries @ np.where(mask[:, None], memory, 0.0).T
    exps = np.exp(scores - scores.max()) * mask
    return exps / exps.sum(axis=-1, keepdims=True)


def my_loss(log_probs, labels, lengths):
    at_label = np.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    return -np.mean(at_label[np.arange(labels.shape[1]) <= lengths[:, None]])
