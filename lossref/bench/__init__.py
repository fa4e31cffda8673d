"""Measuring a path against the limits of the machine that it runs on, and against peers.

A kernel that is bound by memory is judged by its share of what a plain copy of the same array reaches on the same
machine with the same threads, and by the ratio of medians to a peer measured in turns with it. From the bottom up:

    interleaving   contenders take turns; medians and quantiles
    neighbours     whether other processes disturbed a sample
    limits         what the machine can do: copy, read, multiply matrices
    problems       a computation and a size: its inputs, its contenders, the least that it must move and compute
    contenders     lossref's paths and algorithms
    peers          PyTorch, JAX, SciPy, where they are installed
    memory         peak memory of one call, in a process of its own
    process        one process measures everything, with the same threads for every library
    rows           what a measurement is written as
    bars           what the kernels have to reach, and whether they do
    roofline       the plot

Nothing is imported here: ``lossref bench`` loads NumPy only, and the process that it starts loads the rest.
"""
