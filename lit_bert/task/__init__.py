"""What a label is, and how logits become an answer; numpy only, shared by training, export and serving.

A kind of task is one module with one class; `kinds.KINDS` is the table of them.
"""
