"""OBS: channels by the least-squares error of the layers that read them, widths on the true loss.

`statistics` streams the Gram matrix of every layer's input, `channel_orders` orders the channels of
a group by elimination, and has other orders to compare with, `database` keeps the re-solved weights
of every width, `evolution` searches the widths, `search` makes a search method of these.
"""
