"""Names found by a model that labels tokens: its windows, its words and its labels, by a model whose weights are set by
hand: it knows each word by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForTokenClassification, BertModel, PreTrainedTokenizerFast

from luthier.data.pii import Names
from luthier.data.steps import STEPS, Tools
from luthier.data.steps.step import Noted
from luthier.errors import LuthierError
from luthier.models.naming import Namer, Word, parted, spans
from luthier.types import Example, Response, Turn
from luthier.workflow.naming import recogniser

LABELS = ("O", "B-PER", "I-PER", "B-STREET", "I-STREET", "B-LOC")
WORDS = {"ann": 1, "bob": 1, "lee": 2, "王": 1, "伟": 2, "elm": 3, "road": 4, "rome": 5}
"""Words that have a label; all others have none."""
OTHERS = ("the", "met", "in", "at", "and", "5", ",", ".", "[", "]", "person", "a", "said", "-")
CONTEXT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("namer")
    save(path)
    return path


def save(path: Path, labels: tuple[str, ...] = LABELS, *, context: int = CONTEXT) -> None:
    vocabulary = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *OTHERS, *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.normalizer = normalizers.BertNormalizer()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(path)
    names = dict(enumerate(labels))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=context,
        id2label=names,
        label2id={label: n for n, label in names.items()},
    )
    module = BertForTokenClassification(config)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
        embedding = module.bert.embeddings.word_embeddings.weight
        for word, n in vocabulary.items():
            embedding[n, WORDS.get(word, 0) if WORDS.get(word, 0) < len(labels) else 0] = 1.0
        for n in range(len(labels)):
            module.classifier.weight[n, n] = 1.5
    module.save_pretrained(path)


def found(folder: Path, text: str, **keys: object) -> list[tuple[str, str]]:
    (one,) = recogniser(Names(model=str(folder), **keys))([text])  # type: ignore[arg-type]
    return [(text[start:end], kind) for start, end, kind in one]


def test_words_of_one_name_are_one(folder: Path):
    assert found(folder, "The  Ann Lee met Bob, and Bob.") == [
        ("Ann Lee", "person"),
        ("Bob", "person"),
        ("Bob", "person"),
    ]
    assert found(folder, "Ann Bob") == [("Ann", "person"), ("Bob", "person")], "a label says that another begins"
    assert found(folder, "王伟") == [("王伟", "person")]
    assert found(folder, "Ann\nLee") == [("Ann", "person"), ("Lee", "person")], "a name ends with its line"
    assert found(folder, "at Elm\nRoad 5") == [("Elm\nRoad", "address")], "an address does not"
    assert found(folder, "") == found(folder, " \n ") == found(folder, "said the") == []


def test_labels_mean_what_they_usually_do_and_what_the_keys_say(folder: Path):
    text = "Ann met Rome at Elm Road"
    assert found(folder, text) == [("Ann", "person"), ("Elm Road", "address")]
    assert found(folder, text, find=("person",)) == [("Ann", "person")]
    assert found(folder, text, labels={"loc": "address"})[1:] == [("Rome", "address"), ("Elm Road", "address")]
    assert found(folder, text, least=0.99) == []
    assert (
        parted("B-PER") == ("B", "PER")
        and parted("PERSON") == ("", "PERSON")
        and parted("DATE-TIME") == ("", "DATE-TIME")
    )


def test_long_texts_are_read_in_windows_that_lose_nothing(folder: Path):
    words = [("Ann" if n % 7 == 0 else "Lee" if n % 7 == 1 else "the") for n in range(300)]
    text = " ".join(words)
    (many,) = Namer(folder, {"PER": "person"})([text])
    expected = [at for at in range(len(text)) if text.startswith("Ann", at)]
    assert [start for start, _, _ in many] == expected
    assert {text[start:end] for start, end, _ in many[:-1]} == {"Ann Lee"}
    some = [text[:n] for n in (0, 3, 90, 200, 451)]
    namer = Namer(folder, {"PER": "person"})
    assert namer(some) == [namer([one])[0] for one in some], "what stands beside a text changes nothing"


def test_spans_of_words():
    words = [Word(0, 3, {"person": 0.4}, True), Word(4, 7, {"person": 0.9}, False), Word(8, 9, {"address": 0.6}, False)]
    assert spans("Ann Lee 5", words, 0.5) == [(4, 7, "person"), (8, 9, "address")]
    assert spans("Ann Lee 5", words, 0.3) == [(0, 7, "person"), (8, 9, "address")]


def test_the_step_hides_names(folder: Path):
    step = STEPS.build("pii", {"names": str(folder)}).ready(Tools(recognisers=recogniser))
    call = {"type": "function", "function": {"name": "f", "arguments": '{"who": "Ann Lee", "n": 5}'}}
    said = Turn("assistant", "Ann Lee said a@b.de .", calls=(call,))
    row = Example((Turn("user", "the Bob"),), (Response((said,)),))
    plain = Example((Turn("user", "the 5"),), ())
    noted, same = step.apply_all([row, plain], Tools())
    assert same is plain and isinstance(noted, Noted) and isinstance(noted.example, Example)
    assert sorted(noted.notes) == ["email", "person", "person", "person"]
    assert noted.example.prompt[0].text == "the [PERSON]"
    turn = noted.example.responses[0].turns[0]
    assert turn.text == "[PERSON] said [EMAIL] ."
    assert json.loads(turn.calls[0]["function"]["arguments"]) == {"who": "[PERSON]", "n": 5}
    assert step.apply(noted.example, Tools()) is noted.example, "a stand-in is no name"
    assert step.identity()[1] == recogniser(Names(model=str(folder))).identity
    assert step.wants == {"engine"} and STEPS.build("pii", {}).wants == frozenset()


def test_what_cannot_find_names_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(LuthierError, match="no model that finds names"):
        recogniser(Names(model=str(tmp_path)))
    save(tmp_path / "places", ("O", "B-LOC"))
    with pytest.raises(LuthierError, match="no label that means person or address: its labels are LOC, O"):
        recogniser(Names(model=str(tmp_path / "places")))
    save(tmp_path / "bare")
    bare = BertModel(BertConfig.from_pretrained(tmp_path / "bare"))
    bare.save_pretrained(tmp_path / "weights")
    (tmp_path / "weights" / "model.safetensors").rename(tmp_path / "bare" / "model.safetensors")
    with pytest.raises(LuthierError, match="no weights that label words: classifier"):
        recogniser(Names(model=str(tmp_path / "bare")))(["Ann"])
    for keys in ({}, {"model": "a", "spacy": "b"}, {"spacy": "b", "find": ["dogs"]}):
        with pytest.raises(LuthierError):
            STEPS.build("pii", {"names": keys})


def test_a_pipeline_of_spacys(tmp_path: Path):
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    rules = nlp.add_pipe("entity_ruler")
    rules.add_patterns([{"label": "PERSON", "pattern": "Ann Lee"}, {"label": "GPE", "pattern": "Rome"}])
    nlp.to_disk(tmp_path / "pipeline")
    names = Names(spacy=str(tmp_path / "pipeline"), labels={"GPE": "address"})
    assert recogniser(names)(["Ann Lee in Rome", "nobody"]) == [[(0, 7, "person"), (11, 15, "address")], []]


def test_without_spacy_the_error_says_what_to_install():
    try:
        import spacy  # noqa: F401
    except ImportError:
        with pytest.raises(LuthierError, match="spacy") as told:
            recogniser(Names(spacy="en_core_web_sm"))
        assert told.value.fix == "pip install 'luthier[names]'"
    else:
        with pytest.raises(LuthierError, match="spaCy has no such pipeline"):
            recogniser(Names(spacy="no_such_pipeline"))
