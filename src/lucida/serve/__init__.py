"""Trained models behind an address, as programs and people ask them.

requests.py   what a client sends → a prompt and options, or an error it understands
batching.py   prompts that wait are answered together, token by token
server.py     OpenAI's addresses over both; keys, limits, metrics
page.html     the same for people, in a browser
"""
