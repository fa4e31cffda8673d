"""The entries: how each library spells each of our losses. A new loss or library is one entry each."""

import numpy as np

from .calling import NotTaken, peer
from .libraries import JAX, KERAS, METRIC_LEARNING, ONNX, OPTAX, PYTORCH, SCIKIT_LEARN, SCIPY, TORCHVISION

ONE_HOT = "its targets are one-hot"

# -- PyTorch ----------------------------------------------------------------------------------------------------------


@peer(PYTORCH, "cross_entropy", "F.cross_entropy", "weight ignore_index label_smoothing reduction")
def _(torch, logits, labels, **options):
    return torch.nn.functional.cross_entropy(logits, labels, **options)


@peer(PYTORCH, "soft_cross_entropy", "F.cross_entropy", "weight label_smoothing reduction")
def _(torch, logits, targets, **options):
    return torch.nn.functional.cross_entropy(logits, targets, **options)


def _linear_cross_entropy(torch, hidden, classifier, labels, bias=None, **options):
    rows = hidden.reshape(-1, hidden.shape[-1])  # it takes no more axes than two
    value = torch.nn.functional.linear_cross_entropy(rows, classifier, labels.reshape(-1), linear_bias=bias, **options)
    return value.reshape(labels.shape) if options.get("reduction") == "none" else value


@peer(PYTORCH, "linear_cross_entropy", "F.linear_cross_entropy", "bias ignore_index label_smoothing reduction")
def _(torch, hidden, classifier, labels, **options):
    return _linear_cross_entropy(torch, hidden, classifier, labels, **options)


@peer(
    PYTORCH,
    "linear_cross_entropy",
    "F.linear_cross_entropy(options=…)",
    "bias ignore_index label_smoothing reduction",
)
def _(torch, hidden, classifier, labels, **options):
    """In chunks of rows, unless the reduction is none: then it goes the way without options, with a warning."""
    chunks = torch.nn.LinearCrossEntropyOptions()
    return _linear_cross_entropy(torch, hidden, classifier, labels, options=chunks, **options)


@peer(PYTORCH, "softmax_attention", "F.scaled_dot_product_attention", "bias mask scale causal")
def _(torch, queries, keys, values, bias=None, mask=None, scale=None, causal=False):
    if sum((bias is not None, mask is not None, causal)) > 1:
        raise NotTaken("two of bias, mask and causal together")
    return torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask if bias is None else bias, is_causal=causal, scale=scale
    )


@peer(PYTORCH, "nll", "F.nll_loss", "weight ignore_index reduction")
def _(torch, log_probs, labels, **options):
    return torch.nn.functional.nll_loss(log_probs, labels, **options)


@peer(PYTORCH, "binary_cross_entropy", "F.binary_cross_entropy", "reduction")
def _(torch, probs, targets, **options):
    return torch.nn.functional.binary_cross_entropy(probs, targets, **options)


@peer(PYTORCH, "binary_cross_entropy_with_logits", "F.binary_cross_entropy_with_logits", "pos_weight reduction")
def _(torch, logits, targets, pos_weight=None, **options):
    if pos_weight is not None:
        pos_weight = torch.as_tensor(pos_weight, dtype=logits.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, **options)


@peer(PYTORCH, "kl_divergence", "F.kl_div of F.log_softmax", "reduction")
def _(torch, logits, targets, reduction="mean"):
    parts = torch.nn.functional.kl_div(torch.log_softmax(logits, -1), targets, reduction=reduction)
    return parts.sum(-1) if reduction == "none" else parts


@peer(PYTORCH, "multi_margin", "F.multi_margin_loss", "p margin weight reduction")
def _(torch, logits, labels, **options):
    return torch.nn.functional.multi_margin_loss(logits, labels, **options)


@peer(PYTORCH, "info_nce", "F.cross_entropy(s / τ)", "labels temperature reduction")
def _(torch, similarities, labels=None, temperature=0.07, **options):
    labels = torch.arange(len(similarities)) if labels is None else labels
    return torch.nn.functional.cross_entropy(similarities / temperature, labels, **options)


@peer(PYTORCH, "ctc", "F.ctc_loss of F.log_softmax", "input_lengths target_lengths blank zero_infinity reduction")
def _(torch, logits, targets, input_lengths=None, target_lengths=None, **options):
    frames = torch.full((len(logits),), logits.shape[1]) if input_lengths is None else input_lengths
    lengths = torch.full((len(logits),), targets.shape[1]) if target_lengths is None else target_lengths
    log_probs = torch.log_softmax(logits, -1).transpose(0, 1)
    return torch.nn.functional.ctc_loss(log_probs, targets, frames, lengths, **options)


@peer(PYTORCH, "softmax_entropy", "distributions.Categorical.entropy")
def _(torch, logits):
    return torch.distributions.Categorical(logits=logits, validate_args=False).entropy()


@peer(PYTORCH, "softmax", "softmax", "axis")
def _(torch, x, axis=-1):
    return torch.softmax(x, axis)


@peer(PYTORCH, "log_softmax", "log_softmax", "axis")
def _(torch, x, axis=-1):
    return torch.log_softmax(x, axis)


@peer(PYTORCH, "logsumexp", "logsumexp", "axis keepdims")
def _(torch, x, axis=-1, keepdims=False):
    return torch.logsumexp(x, axis, keepdim=keepdims)


@peer(PYTORCH, "softplus", "F.softplus")
def _(torch, x):
    return torch.nn.functional.softplus(x)


@peer(PYTORCH, "log_sigmoid", "F.logsigmoid")
def _(torch, x):
    return torch.nn.functional.logsigmoid(x)


@peer(PYTORCH, "sigmoid", "sigmoid")
def _(torch, x):
    return torch.sigmoid(x)


@peer(TORCHVISION, "sigmoid_focal", "ops.sigmoid_focal_loss", "alpha gamma reduction")
def _(ops, logits, targets, **options):
    if options.get("alpha", 0) is None:
        options["alpha"] = -1.0  # its word for no weights
    return ops.sigmoid_focal_loss(logits, targets, **options)


@peer(METRIC_LEARNING, "info_nce", "NTXentLoss of similarities", "labels temperature reduction")
def _(library, similarities, labels=None, temperature=0.07, reduction="mean"):
    """Its embeddings are the rows of similarities, its references the unit vectors: their products are the entries."""
    import torch

    words = {"mean": "MeanReducer", "sum": "SumReducer", "none": "DoNothingReducer"}
    products = library.distances.DotProductSimilarity(normalize_embeddings=False)
    loss = library.losses.NTXentLoss(
        temperature, distance=products, reducer=getattr(library.reducers, words[reduction])()
    )
    candidates = similarities.shape[1]
    if candidates < 2:
        raise NotTaken("one candidate: without a negative its loss is 0 by definition")
    if reduction == "none" and not len(similarities):
        raise NotTaken("no rows, unless reduced")
    labels = torch.arange(len(similarities)) if labels is None else labels
    units = torch.eye(candidates, dtype=similarities.dtype)
    found = loss(similarities, labels, ref_emb=units, ref_labels=torch.arange(candidates))
    return found["loss"]["losses"] if reduction == "none" else found


# -- optax and JAX ----------------------------------------------------------------------------------------------------


def _one_hot(logits, labels):
    return (labels[:, None] == np.arange(logits.shape[-1])).astype(logits.dtype)


@peer(OPTAX, "cross_entropy", "softmax_cross_entropy_with_integer_labels")
def _(optax, logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@peer(OPTAX, "soft_cross_entropy", "softmax_cross_entropy", "label_smoothing")
def _(optax, logits, targets, label_smoothing=None):
    if label_smoothing is not None:
        targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


@peer(OPTAX, "soft_cross_entropy", "safe_softmax_cross_entropy", "label_smoothing")
def _(optax, logits, targets, label_smoothing=None):
    if label_smoothing is not None:
        targets = optax.smooth_labels(targets, label_smoothing)
    return optax.safe_softmax_cross_entropy(logits, targets)


@peer(OPTAX, "binary_cross_entropy_with_logits", "sigmoid_binary_cross_entropy")
def _(optax, logits, targets):
    return optax.sigmoid_binary_cross_entropy(logits, targets)


@peer(OPTAX, "sigmoid_focal", "sigmoid_focal_loss", "alpha gamma")
def _(optax, logits, targets, **options):
    return optax.sigmoid_focal_loss(logits, targets, **options)


@peer(OPTAX, "poly_loss", "losses.poly_loss_cross_entropy", "epsilon", untried_labels=ONE_HOT)
def _(optax, logits, labels, **options):
    return optax.losses.poly_loss_cross_entropy(logits, _one_hot(logits, labels), **options)


@peer(OPTAX, "kl_divergence", "kl_divergence of log_softmax")
def _(optax, logits, targets):
    import jax

    return optax.kl_divergence(jax.nn.log_softmax(logits), targets)


@peer(OPTAX, "crammer_singer_hinge", "losses.multiclass_hinge_loss")
def _(optax, logits, labels):
    return optax.losses.multiclass_hinge_loss(logits, labels)


@peer(OPTAX, "ctc", "ctc_loss", "input_lengths target_lengths blank")
def _(optax, logits, targets, input_lengths=None, target_lengths=None, blank=0):
    def padding(length, lengths):
        lengths = np.full(len(logits), length) if lengths is None else lengths
        return (np.arange(length) >= np.asarray(lengths)[:, None]).astype(float)

    paddings = padding(logits.shape[1], input_lengths), padding(targets.shape[1], target_lengths)
    return optax.ctc_loss(logits, paddings[0], targets, paddings[1], blank_id=blank)


@peer(OPTAX, "info_nce", "softmax_cross_entropy_with_integer_labels(s / τ)", "labels temperature")
def _(optax, similarities, labels=None, temperature=0.07):
    labels = np.arange(len(similarities)) if labels is None else labels
    return optax.softmax_cross_entropy_with_integer_labels(similarities / temperature, labels)


@peer(JAX, "softmax", "nn.softmax", "axis")
def _(jax, x, axis=-1):
    return jax.nn.softmax(x, axis)


@peer(JAX, "log_softmax", "nn.log_softmax", "axis")
def _(jax, x, axis=-1):
    return jax.nn.log_softmax(x, axis)


@peer(JAX, "logsumexp", "nn.logsumexp", "axis keepdims")
def _(jax, x, axis=-1, keepdims=False):
    return jax.nn.logsumexp(x, axis, keepdims=keepdims)


@peer(JAX, "softplus", "nn.softplus")
def _(jax, x):
    return jax.nn.softplus(x)


@peer(JAX, "log_sigmoid", "nn.log_sigmoid")
def _(jax, x):
    return jax.nn.log_sigmoid(x)


@peer(JAX, "sigmoid", "nn.sigmoid")
def _(jax, x):
    return jax.nn.sigmoid(x)


@peer(JAX, "log1mexp", "nn.log1mexp(-x)")
def _(jax, x):
    return jax.nn.log1mexp(-x)


# -- Keras: losses take targets first, and compute in float32 unless told otherwise -----------------------------------


def _reduction(options):
    """Keras' words for a reduction; nothing for its default."""
    words = {"none": None, "sum": "sum", "mean": "sum_over_batch_size"}
    return {"reduction": words[options["reduction"]]} if "reduction" in options else {}


def _dtype(x):
    return str(x.dtype).removeprefix("torch.")


@peer(KERAS, "cross_entropy", "SparseCategoricalCrossentropy", "ignore_index reduction")
def _(keras, logits, labels, ignore_index=None, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=ignore_index, dtype=_dtype(logits), **_reduction(options)
    )
    return loss(labels, logits)


@peer(KERAS, "soft_cross_entropy", "CategoricalCrossentropy", "label_smoothing reduction")
def _(keras, logits, targets, label_smoothing=0.0, **options):
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=label_smoothing, dtype=_dtype(logits), **_reduction(options)
    )
    return loss(targets, logits)


def _each_element(x, options):
    """Keras averages over the last axis whatever the reduction: elements apart are rows of one."""
    return x if options.get("reduction") == "mean" else x[..., None]


@peer(KERAS, "binary_cross_entropy", "BinaryCrossentropy", "reduction")
def _(keras, probs, targets, **options):
    loss = keras.losses.BinaryCrossentropy(dtype=_dtype(probs), **_reduction(options))
    return loss(_each_element(targets, options), _each_element(probs, options))


@peer(KERAS, "binary_cross_entropy_with_logits", "BinaryCrossentropy(from_logits=True)", "reduction")
def _(keras, logits, targets, **options):
    loss = keras.losses.BinaryCrossentropy(from_logits=True, dtype=_dtype(logits), **_reduction(options))
    return loss(_each_element(targets, options), _each_element(logits, options))


@peer(KERAS, "sigmoid_focal", "BinaryFocalCrossentropy(from_logits=True)", "alpha gamma reduction")
def _(keras, logits, targets, **options):
    chosen = {"gamma": options["gamma"]} if "gamma" in options else {}
    if options.get("alpha") is not None:
        chosen |= {"alpha": options["alpha"], "apply_class_balancing": True}
    loss = keras.losses.BinaryFocalCrossentropy(from_logits=True, dtype=_dtype(logits), **chosen, **_reduction(options))
    return loss(_each_element(targets, options), _each_element(logits, options))


@peer(
    KERAS,
    "focal",
    "CategoricalFocalCrossentropy(alpha=1, from_logits=True)",
    "gamma reduction",
    untried_labels=ONE_HOT,
)
def _(keras, logits, labels, **options):
    chosen = {"gamma": options["gamma"]} if "gamma" in options else {}
    loss = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, from_logits=True, dtype=_dtype(logits), **chosen, **_reduction(options)
    )
    return loss(keras.ops.one_hot(labels, logits.shape[-1], dtype=_dtype(logits)), logits)


@peer(KERAS, "kl_divergence", "KLDivergence of softmax", "reduction")
def _(keras, logits, targets, **options):
    loss = keras.losses.KLDivergence(dtype=_dtype(logits), **_reduction(options))
    return loss(targets, keras.ops.softmax(logits))


@peer(KERAS, "ctc", "ops.ctc_loss", "input_lengths target_lengths blank")
def _(keras, logits, targets, input_lengths=None, target_lengths=None, blank=0):
    frames = np.full(len(logits), logits.shape[1]) if input_lengths is None else input_lengths
    lengths = np.full(len(logits), targets.shape[1]) if target_lengths is None else target_lengths
    return keras.ops.ctc_loss(targets, logits, lengths, frames, mask_index=blank)


@peer(KERAS, "softmax", "ops.softmax", "axis")
def _(keras, x, axis=-1):
    return keras.ops.softmax(x, axis)


@peer(KERAS, "log_softmax", "ops.log_softmax", "axis")
def _(keras, x, axis=-1):
    return keras.ops.log_softmax(x, axis)


@peer(KERAS, "logsumexp", "ops.logsumexp", "axis keepdims")
def _(keras, x, axis=-1, keepdims=False):
    return keras.ops.logsumexp(x, axis, keepdims=keepdims)


@peer(KERAS, "softplus", "ops.softplus")
def _(keras, x):
    return keras.ops.softplus(x)


@peer(KERAS, "log_sigmoid", "ops.log_sigmoid")
def _(keras, x):
    return keras.ops.log_sigmoid(x)


@peer(KERAS, "sigmoid", "ops.sigmoid")
def _(keras, x):
    return keras.ops.sigmoid(x)


# -- ONNX's reference evaluator ---------------------------------------------------------------------------------------


@peer(ONNX, "cross_entropy", "SoftmaxCrossEntropyLoss", "weight ignore_index reduction")
def _(run, logits, labels, weight=None, **attributes):
    return run("SoftmaxCrossEntropyLoss", logits, labels, *([] if weight is None else [weight]), **attributes)


@peer(ONNX, "nll", "NegativeLogLikelihoodLoss", "weight ignore_index reduction")
def _(run, log_probs, labels, weight=None, **attributes):
    return run("NegativeLogLikelihoodLoss", log_probs, labels, *([] if weight is None else [weight]), **attributes)


@peer(ONNX, "softmax", "Softmax", "axis")
def _(run, x, axis=-1):
    return run("Softmax", x, axis=axis)


@peer(ONNX, "log_softmax", "LogSoftmax", "axis")
def _(run, x, axis=-1):
    return run("LogSoftmax", x, axis=axis)


@peer(ONNX, "logsumexp", "ReduceLogSumExp", "axis keepdims")
def _(run, x, axis=-1, keepdims=False):
    return run("ReduceLogSumExp", x, np.array([axis]), keepdims=int(keepdims))


@peer(ONNX, "softplus", "Softplus")
def _(run, x):
    return run("Softplus", x)


@peer(ONNX, "sigmoid", "Sigmoid")
def _(run, x):
    return run("Sigmoid", x)


# -- scikit-learn and SciPy -------------------------------------------------------------------------------------------


# What LogisticRegression minimises.
@peer(SCIKIT_LEARN, "cross_entropy", "HalfMultinomialLoss", untried_labels="it reads outside its arrays")
def half_multinomial(sklearn, logits, labels):
    return _half_multinomial(sklearn, logits, labels)[0]


@half_multinomial.gradient
def _(sklearn, logits, labels, cotangent):
    return np.asarray(cotangent)[..., None] * _half_multinomial(sklearn, logits, labels)[1]


def _half_multinomial(sklearn, logits, labels):
    if logits.shape[1] < 2:
        raise NotTaken("one class")
    loss = sklearn._loss.HalfMultinomialLoss(n_classes=logits.shape[1])
    return loss.loss_gradient(labels.astype(logits.dtype), np.ascontiguousarray(logits))


@peer(SCIKIT_LEARN, "binary_cross_entropy_with_logits", "HalfBinomialLoss")
def half_binomial(sklearn, logits, targets):
    return sklearn._loss.HalfBinomialLoss().loss(targets.ravel(), logits.ravel()).reshape(logits.shape)


@half_binomial.gradient
def _(sklearn, logits, targets, cotangent):
    return cotangent * sklearn._loss.HalfBinomialLoss().gradient(targets.ravel(), logits.ravel()).reshape(logits.shape)


@peer(SCIKIT_LEARN, "binary_cross_entropy", "metrics.log_loss", "reduction")
def _(sklearn, probs, targets, reduction="mean"):
    if not np.isin(targets, (0, 1)).all():
        raise NotTaken("targets other than 0 and 1")
    if reduction == "none":
        pairs = zip(targets.ravel(), probs.ravel(), strict=True)
        one_by_one = [sklearn.metrics.log_loss([t], np.array([p]), labels=[0, 1]) for t, p in pairs]
        return np.array(one_by_one, probs.dtype).reshape(probs.shape)
    return sklearn.metrics.log_loss(targets.ravel(), probs.ravel(), labels=[0, 1], normalize=reduction == "mean")


@peer(SCIKIT_LEARN, "crammer_singer_hinge", "metrics.hinge_loss", "reduction")
def _(sklearn, logits, labels, reduction="mean"):
    if logits.shape[1] < 3:
        raise NotTaken("fewer than 3 classes")  # one score per row, of another meaning
    if reduction == "sum":
        raise NotTaken("it has only the mean")
    classes = np.arange(logits.shape[1])
    if reduction == "mean":
        return np.asarray(sklearn.metrics.hinge_loss(labels, logits, labels=classes))
    rows = zip(labels[:, None], logits[:, None], strict=True)
    return np.array([sklearn.metrics.hinge_loss(y, x, labels=classes) for y, x in rows], logits.dtype)


@peer(SCIKIT_LEARN, "softmax", "utils.extmath.softmax")
def _(sklearn, x):
    return sklearn.utils.extmath.softmax(x.reshape(-1, x.shape[-1])).reshape(x.shape)


@peer(SCIPY, "softmax", "softmax", "axis")
def _(special, x, axis=-1):
    return special.softmax(x, axis)


@peer(SCIPY, "log_softmax", "log_softmax", "axis")
def _(special, x, axis=-1):
    return special.log_softmax(x, axis)


@peer(SCIPY, "logsumexp", "logsumexp", "axis keepdims")
def _(special, x, axis=-1, keepdims=False):
    return special.logsumexp(x, axis, keepdims=keepdims)


@peer(SCIPY, "softplus", "softplus")
def _(special, x):
    return special.softplus(x)


@peer(SCIPY, "log_sigmoid", "log_expit")
def _(special, x):
    return special.log_expit(x)


@peer(SCIPY, "sigmoid", "expit")
def _(special, x):
    return special.expit(x)
