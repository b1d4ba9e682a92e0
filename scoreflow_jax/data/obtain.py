"""Where data sets come from that cannot simply be downloaded: what a message adds when one is not there."""

HOW_TO_GET = {
    "afhq": "AFHQ: `bash download.sh afhq-dataset` of github.com/clovaai/stargan-v2 makes data/afhq with folders train and val "
    "of cat, dog and wild; give that folder",
    "celeb_a": "CelebA: tensorflow-datasets downloads it from Google Drive, which refuses when too many do; else download "
    "img_align_celeba.zip and the four text files from mmlab.ie.cuhk.edu.hk/projects/CelebA.html into its manual folder, or use "
    "a folder of the pictures: source=image_folder",
    "celeb_a_hq": "CelebA-HQ has no direct download: either the 30,000 pictures of CelebAMask-HQ "
    "(github.com/switchablenorms/CelebAMask-HQ, folder CelebA-HQ-img) as source=image_folder, or tensorflow-datasets' own tar "
    "file in its manual folder, or CelebA instead: configs/celeba_metfaces.py:celeba",
    "imagenet_resized": "ImageNet at 32x32: the zip files Imagenet32_train_npz.zip and Imagenet32_val_npz.zip of image-net.org's "
    "downsampled images, for which it wants an account; put them into tensorflow-datasets' download folder",
    "downsampled_imagenet": "this set of ImageNet at 32x32 is no longer offered by image-net.org: only copies of others have it",
    "metfaces": "MetFaces: the 1,336 pictures of github.com/NVlabs/metfaces-dataset (folder images); give that folder",
    "edges2shoes": "shoes: edges2shoes.tar.gz of efrosgans.eecs.berkeley.edu/pix2pix/datasets; give the folder edges2shoes",
    "edges2handbags": "handbags: edges2handbags.tar.gz of efrosgans.eecs.berkeley.edu/pix2pix/datasets; give the folder "
    "edges2handbags",
}
"""Sentences by the name of the data set, `config.data.name` up to a slash."""


def how_to_get(name: str) -> str:
    """The sentence for a data set, with a space before it; empty where there is none."""
    known = HOW_TO_GET.get(name.split("/")[0])
    return f" {known}." if known else ""
