"""Swaps of SAE codes (E6) with their controls (E1, E4) and rivals, and the decision table over
their effects.
"""
