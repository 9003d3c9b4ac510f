"""The files of the named data sets: name, SHA-256 and, where the official content is the same, address."""

from __future__ import annotations

from holdfast.data.named.files import SourceFile

__all__ = ["FILES"]

_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"

FILES: dict[str, tuple[SourceFile, ...]] = {
    "fashion-mnist": (
        SourceFile(
            "t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            url=_FASHION + "t10k-images-idx3-ubyte.gz",
        ),
        SourceFile(
            "t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            url=_FASHION + "t10k-labels-idx1-ubyte.gz",
        ),
        SourceFile(
            "train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            url=_FASHION + "train-images-idx3-ubyte.gz",
        ),
        SourceFile(
            "train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            url=_FASHION + "train-labels-idx1-ubyte.gz",
        ),
    ),
    "mnist": (
        SourceFile(
            "t10k-images-idx3-ubyte.gz",
            "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
            url=_MNIST + "t10k-images-idx3-ubyte.gz",
            url_sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        SourceFile(
            "t10k-labels-idx1-ubyte.gz",
            "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
            url=_MNIST + "t10k-labels-idx1-ubyte.gz",
            url_sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        SourceFile(
            "train-images-idx3-ubyte.gz",
            "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
            url=_MNIST + "train-images-idx3-ubyte.gz",
            url_sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        SourceFile(
            "train-labels-idx1-ubyte.gz",
            "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
            url=_MNIST + "train-labels-idx1-ubyte.gz",
            url_sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
    ),
    "usps": (
        SourceFile(
            "usps.npz",
            "20ac10a0eeec65fcc24c1a18d347019772ad68efae77024a62e9f0b713c04fb6",
        ),
    ),
    "pacs": (
        SourceFile(
            "pacs_32.npz",
            "5e7f0592d6b6c8552dff243c2e44f5cc6de57d07d79dd6334a3cc8b0e852a0c1",
        ),
        SourceFile(
            "pacs_64_subset.npz",
            "bb55ca96bf227b7abfc0f6f02d269a07da54d9b4d2b9e5aff6a980ae0199a362",
        ),
    ),
    "cifar10": (
        SourceFile(
            "cifar10_test_jpeg.npz",
            "8ffdbdefc70c88e531a548ef8000f681c3c450a0eb8e881b350b0c3e98cdf95b",
        ),
        SourceFile(
            "cifar10_train10k_test2k.npz",
            "4670761b8eaab4ed51969eeaae39aeec0c7c281faa3d433e5e538e1845be9e2d",
        ),
        SourceFile(
            "cifar10_train_jpeg.npz",
            "07757cdead5899474d4b7399c1bd75b0c3a768abc267a64bc29006c2a279fbac",
        ),
    ),
    "cifar-n": (
        SourceFile(
            "cifar10n.npz",
            "6024485a143efa682792c21d7f2adfdef5a374dce699bb2fcd4d62cd55cc4852",
        ),
    ),
    "omniglot": (
        SourceFile(
            "omniglot_105.npz",
            "3721d6940d3f30467d27f5589369501001625edf7bc3098d2dc624ad46cca26a",
        ),
    ),
    "coil20": (
        SourceFile(
            "coil20_32.npz",
            "e4a4ad909acd2912e75a3e5ee87a6fef6f53327a9cccedca190f99099ec45595",
        ),
    ),
    "pneumoniamnist": (
        SourceFile(
            "pneumoniamnist.npz",
            "d0bfa3330f26554c4117328b1117f52bfb3746404b0594c58f37a09b4314d396",
        ),
    ),
    "extended-yale-b": (
        SourceFile(
            "extended_yale_b_48x42.npz",
            "d3f1fdd4baa16711bf654b5096b07b2244e52642bacae87af9893d4e590610eb",
        ),
    ),
    "yale-faces": (
        SourceFile(
            "yale_faces_81x107.npz",
            "b693e0b5784a655584829744e0f39d05ac71c54ffd83220faa0625c4824aaef5",
        ),
    ),
    "orl-faces": (
        SourceFile(
            "orl_faces_56x46.npz",
            "99c54d6ad506f2f637badde2263675bc997d97b9ba9591c3ffedc7006947a0e0",
        ),
    ),
    "smiles-lfw": (
        SourceFile(
            "smiles_32.npz",
            "5afc75d2d03ad9d2ece5e07fff60452f5dae73bf7b9010b9523c7658fd3ccba2",
        ),
    ),
    "hate-speech": (
        SourceFile(
            "cad_reddit.csv.gz",
            "21342c29e9578a546fbef6458b7ea2f98ef769198fc0d8da5f0fbc75866553f0",
        ),
        SourceFile(
            "davidson_twitter.csv.gz",
            "aff99c47969e501c67d344cc90f941749058de9290952d9ec5cdedbd5039871b",
        ),
        SourceFile(
            "ethos_youtube_reddit.csv.gz",
            "26884be6a00fa23faef3e8c36207188a7f8a626406205c22b60da8c06bd0fdbc",
        ),
        SourceFile(
            "fox_news_comments.csv.gz",
            "3bf8319bb1eac1e20cce97228701a423d196ae3bf37f19553b469d30d7c8915d",
        ),
        SourceFile(
            "ghc_gab.csv.gz",
            "295cf1e9ff7d149923c3a91a62aaf63818343cab60968cc974283bfb70737219",
        ),
        SourceFile(
            "hatecheck.csv.gz",
            "bc8a6c64bbe2fa5d908ccd04646b87f74e02602ed67f1a65a98813ec17f088cb",
        ),
        SourceFile(
            "hatexplain_val_test.csv.gz",
            "de2189e6c3fc2a8c12c54417bfb3af164880ab68f19f7d80007d468a54d30faa",
        ),
        SourceFile(
            "stormfront.csv.gz",
            "c3116d07093f3ab70962d3351184bcf4d5ef018e6885fb44ef3b87c6d0c5fbc2",
        ),
    ),
    "adult": (
        SourceFile(
            "adult.data.gz",
            "fb9b6b419c38dd70d75d31f014b7f0905bf76e9625473c593455e31679a93184",
            url=_UCI + "adult/adult.data",
            url_sha256="5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        ),
        SourceFile(
            "adult.test.gz",
            "d16c978b95fe8ecec94dec57782a85ed9720c507d93a4608e8f182a8e6378d4a",
            url=_UCI + "adult/adult.test",
            url_sha256="a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
        ),
    ),
    "wine-quality": (
        SourceFile(
            "winequality-red.csv.gz",
            "a68f76349dc024f38a5448782ba44ff74b36ee704f71d7fe1ef8caa7228f358f",
            url=_UCI + "wine-quality/winequality-red.csv",
            url_sha256="4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e",
        ),
        SourceFile(
            "winequality-white.csv.gz",
            "465e348b4e739f7b68c8a8b5e60713576173636c99a247527b73ce99a85d9a7c",
            url=_UCI + "wine-quality/winequality-white.csv",
            url_sha256="76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836",
        ),
    ),
    "bike-sharing": (
        SourceFile(
            "hour.csv.gz",
            "567967655bd39f9b1c3646c620c313bf10ec01e39f7a48d778e5d588686daae5",
            url="https://archive.ics.uci.edu/static/public/275/bike+sharing+dataset.zip",
            url_sha256="e03de4ee4ef4dc376ac6e04bf829673c6269e8eba5c60fa121640fa2f829504f",
            member="hour.csv",
        ),
    ),
    "communities-crime": (
        SourceFile(
            "communities.csv.gz",
            "8f15366e0a853ab07d8a38e3d7998e2c20bad40d4131928da489c1fff9a7f659",
        ),
    ),
    "heart-disease": (
        SourceFile(
            "heart_disease_4_sites.csv.gz",
            "79c2f6bdc58623472d5c700ad4d6c30d5c5cffa926b1c897583a04542aff1275",
        ),
    ),
    "electricity-nsw": (
        SourceFile(
            "electricity.csv.gz",
            "1d92515b3f30a989e8969c0ea5a072b423fa21e1b759c687071849681849e938",
        ),
    ),
    "cell-lines-batches": (
        SourceFile(
            "cell_lines_pcs.npz",
            "0890f57f6811f89b014838320fa8cf89e8a3bf78119a44060203f808276f4ebd",
        ),
    ),
    "pbmc68k-reduced": (
        SourceFile(
            "pbmc68k_reduced.npz",
            "ce78947171275889f813675c8fc50a4b0a7038c1a2b2457462ab2c1e1763805a",
        ),
    ),
    "kang-pbmc-ifnb": (
        SourceFile(
            "kang_pbmc_ifnb_2000genes.npz",
            "79506734df7e870ec858a42becaf0425e4791b2bcc96cac357d24c81b4606f7f",
        ),
    ),
}
