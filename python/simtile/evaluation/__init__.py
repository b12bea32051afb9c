"""What an embedding space can do: small evaluations from papers, on the searches and reductions of this package.

    limit             how many documents d dimensions can serve: free embeddings, the trigonometric moment curve
    relative          similarities to anchors, the same in every rotated or rescaled space
    rsa               agreement of two similarity matrices, neither of which is stored
    galleries         recall in a small gallery of each query's own, beside its exact chance level
    label_vectors     texts classified by vectors of keywords, without a label
    retrieved_probe   a linear probe on what was retrieved for each class, averaged with the zero-shot weights
    views             which views of a test item to trust: near to the original, low in entropy
    whitening         L2, PCA-whitening, L2, signed power
    patches           sets of local vectors compared: mean distance to the nearest
    hyperplane        a vector moved onto the plane between two sets of attributes
    score_maps        pixels against texts; the mass of an attention inside a region
    correspondence    where a pixel went: soft-argmax without the correlation volume

Modules are imported one by one. NumPy is enough for rsa, galleries, whitening and patches; label_vectors (its cleaning)
and hyperplane need scikit-learn, the others torch. docs/evaluation.md has the equations.
"""
