"""lit_bert beside what a user would pick instead, on one machine and in one run.

make bench
"""
