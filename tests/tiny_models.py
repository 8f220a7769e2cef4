"""Tiny random models with a word tokenizer, so that the fast tests need no download; and log p by
an ordinary forward call.
"""

import torch

from sandbagging import prompts
from sandbagging.questions import Question

TINY_QUESTIONS = [
    Question("q-1", "toys", "What barks?", "dog", ("cat", "blue whale", "old grey horse")),
    Question("q-2", "toys", "What colour is grass in spring time?", "green",
             ("red", "very dark blue", "grey")),
    Question("q-3", "toys", "What is wet?", "sea water", ("sand", "stone", "dry old wood")),
    Question("q-4", "toys", "Who purrs at night?", "cat", ("dog", "horse", "stone")),
    Question("q-5", "toys", "What is heavy?", "grey stone", ("sand", "grass", "red wood")),
    Question("q-6", "toys", "What grows?", "grass", ("stone", "sea", "sand")),
    Question("q-7", "toys", "What burns?", "dry wood", ("sea water", "stone", "sand")),
    Question("q-8", "toys", "What swims in the sea?", "blue whale", ("dog", "old horse", "cat")),
    Question("q-9", "toys", "What neighs?", "horse", ("whale", "cat", "dog")),
    Question("q-10", "toys", "What is dry?", "sand", ("sea", "water", "whale")),
    Question("q-11", "toys", "What is dark?", "night", ("spring", "grass", "green")),
    Question("q-12", "toys", "What is old?", "old stone", ("spring", "night", "grass")),
]  # fmt: skip


def word_tokenizer(bos: bool = False):
    """Return a tokenizer whose tokens are the words of the tiny questions and of the prompts."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as token_models
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Whitespace()
    texts = [
        prompts.render(q, c, f)
        for q in TINY_QUESTIONS
        for c in prompts.CONDITIONS
        for f in prompts.FRAMINGS
    ]
    texts += [option for q in TINY_QUESTIONS for option in q.options]
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<bos>", "<eos>", *words])}
    tokenizer = Tokenizer(token_models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    marks = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)


def tiny_llama_module(vocabulary: int, seed: int = 0) -> torch.nn.Module:
    """Return a random Llama with grouped queries and heads wider than d_model / n_heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, max_position_embeddings=512,
        initializer_range=0.3, tie_word_embeddings=False,
    )).eval()  # fmt: skip


def tiny_neox_module(vocabulary: int, seed: int = 0) -> torch.nn.Module:
    """Return a random GPT-NeoX, whose blocks run attention and MLP side by side."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.3,
    )).eval()  # fmt: skip


def sparse_tokens(
    n: int, n_directions: int, d_in: int, scale: float, offset: float
) -> torch.Tensor:
    """Return tokens [n d_in]: sparse sums of fixed directions, and one offset for all."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(n_directions, d_in, generator=generator)
    directions = torch.nn.functional.normalize(directions, dim=1)
    chosen = torch.rand(n, n_directions, generator=generator) < 0.06
    on = chosen * torch.rand(n, n_directions, generator=generator).add(0.2)
    return scale * on @ directions + offset * torch.randn(d_in, generator=generator)


def plain_log_p(module: torch.nn.Module, prompt: list[int], option: list[int]) -> float:
    """Return log p(option | prompt) by an ordinary forward call on one sequence: the second route
    to every score.
    """
    ids = torch.tensor([prompt + option])
    with torch.no_grad():
        log_p = module(ids).logits[0].float().log_softmax(-1)
    return sum(log_p[len(prompt) - 1 + i, token].item() for i, token in enumerate(option))
