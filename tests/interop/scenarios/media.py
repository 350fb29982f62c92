"""Files of another server."""

import io

from PIL import Image

from client import path
from harness import once, same


@once
async def media(scene):
    """Bob downloads a file that Alice uploaded to her server, with its content type and name."""
    alice, bob = await scene.pair()
    data = bytes(range(256)) * 1000
    server, name = await _upload(alice, data, "application/octet-stream", "naïve file.bin")
    found, headers = await bob.download(_v1("download", server, name))
    same(found == data, True, f"whether the {len(found)} bytes are those of the file")
    same(headers["Content-Type"], "application/octet-stream", "the type of the file")
    same("na%C3%AFve%20file.bin" in headers["Content-Disposition"], True, "whether the name is the file's")


@once
async def thumbnails(scene):
    """Bob gets a thumbnail of Alice's picture."""
    alice, bob = await scene.pair()
    picture = io.BytesIO()
    Image.new("RGB", (800, 600), "teal").save(picture, "PNG")
    server, name = await _upload(alice, picture.getvalue(), "image/png", "teal.png")
    query = {"width": "96", "height": "96", "method": "crop"}
    small, headers = await bob.download(_v1("thumbnail", server, name), query)
    same(headers["Content-Type"].startswith("image/"), True, "whether the thumbnail is a picture")
    same(Image.open(io.BytesIO(small)).size, (96, 96), "the size of the thumbnail")


async def _upload(person, data, content_type, filename):
    """Stores a file and returns the server and the media id in its address."""
    address = await person.upload(data, content_type, filename)
    return address.removeprefix("mxc://").split("/")


def _v1(what, server, name):
    return path("media", what, server, name).replace("client/v3/media", "client/v1/media")
