"""What `make bench-wear` measures: how much each way to spare a card wears it. See docs/wear.md.

model       models of a card that count erases
trace       what a card received, in parts
bounds      the least that could be done
states      what changed between two flushes
day         a day in the life of a router, from day.toml
contenders  the ways that are compared
run         one way, one day
figures     a run's record as numbers
table       the numbers as a table
plot        and as a picture
"""
