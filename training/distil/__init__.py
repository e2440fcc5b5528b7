"""Distillation: a network learns from what larger ones, its teachers, answer.

``distillation`` describes it, ``teacher`` computes and keeps the answers, ``loss`` mixes them with the labels.
"""
