"""The messages and services of proto/plexspaces/v1, from the descriptors that scripts/generate-proto writes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

DESCRIPTORS: Final = Path(__file__).parent / "_generated" / "plexspaces.v1.protoset"


def _load() -> tuple[descriptor_pool.DescriptorPool, dict[str, ServiceDescriptor]]:
    # A pool of our own: the process's may hold other descriptors of this name, of a client in the same process.
    pool = descriptor_pool.DescriptorPool()
    services: dict[str, ServiceDescriptor] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
        services |= {each.full_name: each for each in pool.FindFileByName(file.name).services_by_name.values()}
    return pool, services


POOL, SERVICES = _load()


def message_class(name: str) -> type[Message]:
    """The class of a message.

    Args:
        name: with its package, such as `plexspaces.v1.AskRequest`.

    Raises:
        KeyError: there is none.
    """
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))
