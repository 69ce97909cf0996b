"""The regression gate: is the head slower, hungrier or more wrong than the base?"""
