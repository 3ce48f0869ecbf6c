"""Training: `lucida.train(recipe)` gives the run folder; it is `loop.train`.

loop         a run, its stages, their steps: read this first
run          Run: what stages share, from its beginning to the model that is saved
stage_run    StageRun: a stage planned, opened, stepped, validated, saved, closed
step         Stepper: one optimizer step
observe      Observer: who looks at the model on the way; looking without a trace

stage, blocks              patterns ─▶ learning rates; layers of any architecture
feed, features             what a stage reads; features of frozen encoders, kept
budget, ending              when a stage ends, and with which weights
optim, muon                schedules; what moves the weights
objective, cross_entropy   the loss, at supervised positions only
preference, reference      the loss of pairs of answers, against the model at a stage's beginning
shares, records            what each source had in a step; what is written down
engine, sharding           one process, DDP, FSDP2
precision, layers, kernels numbers of the products; layers again or compiled; faster norms
state, reading             checkpoints, written and read
folder, inputs, preflight  what is refused before the first step
words                      words that the language model lacks
divergence, diagnose       training that fell apart, and where
blind, stopping            the baseline without images; SIGTERM
"""
