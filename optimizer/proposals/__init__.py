"""Where new prompts come from: typed failures, what the optimizer model is asked, how its replies are read, edits of
sentences.
"""
