"""What a corpus is made of: which items help, which stand for all, how it falls into parts. NumPy is enough.

    learn_importance          how much each item of a retrieval corpus helps; prune_threshold, importance_gradient
    facility_location         a few items that stand for all, with weights; from a matrix, from a graph of neighbours
    kmeans                    clusters, by distance or by cosine
    resample_train, resample_test, label_overlap      does a retriever interpolate, or extrapolate?
    DistinctLabelBatches      batches without two items of one label

Arrays or torch tensors on the CPU in, NumPy arrays out; the same bits for any number of threads.
"""

from simtile.corpus.batches import DistinctLabelBatches
from simtile.corpus.clustering import Clusters, kmeans
from simtile.corpus.facility import Coreset, facility_location, facility_location_graph, facility_location_matrix
from simtile.corpus.importance import (
    Importance,
    Pruning,
    importance_gradient,
    learn_importance,
    prune_threshold,
)
from simtile.corpus.resampling import Fold, TrainingSets, label_overlap, resample_test, resample_train

__all__ = [
    "Clusters",
    "Coreset",
    "DistinctLabelBatches",
    "Fold",
    "Importance",
    "Pruning",
    "TrainingSets",
    "facility_location",
    "facility_location_graph",
    "facility_location_matrix",
    "importance_gradient",
    "kmeans",
    "label_overlap",
    "learn_importance",
    "prune_threshold",
    "resample_test",
    "resample_train",
]
