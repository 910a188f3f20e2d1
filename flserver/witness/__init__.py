"""A witness: what a site runs to hold the server's record to what it was, without database and torch.

``view`` is the rule, pure; ``keeping`` what a witness remembers, on its disk; ``watch`` asks a server for heads;
``check`` looks at files that an operator made for a site, and ``compare`` at what two witnesses saw.
"""
