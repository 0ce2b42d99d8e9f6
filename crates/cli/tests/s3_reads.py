"""What boto3 sees of a node: reads as S3 gives them, refusals as S3 writes them.

Arguments: the node's endpoint. The keys come from the environment. Prints `done` when all holds.
"""

import hashlib
import sys
import urllib.error
import urllib.request

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT = sys.argv[1]


def client(**more):
    # One try: what is refused must be refused, and a broken connection must not be hidden.
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **more.pop("config", {}))
    return boto3.client("s3", endpoint_url=ENDPOINT, region_name="us-east-1", config=config, **more)


def content(key, size):
    """As sandbox.rs makes it."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for byte in key.encode():
        state = ((state ^ byte) * 0x100000001B3) & mask
    out = bytearray()
    while len(out) < size:
        state ^= (state << 13) & mask
        state ^= state >> 7
        state ^= (state << 17) & mask
        out += state.to_bytes(8, "little")
    return bytes(out[:size])


def refused(status, code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        answer = error.response
        found = (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"])
        assert found == (status, code), (found, arguments)
        return answer["Error"].get("Message", "")
    raise AssertionError(f"not refused: {arguments}")


def listed(s3, **arguments):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="b", **arguments)
    keys, prefixes, count = [], [], 0
    for page in pages:
        count += 1
        assert page["KeyCount"] == len(page.get("Contents", [])) + len(page.get("CommonPrefixes", []))
        keys += [item["Key"] for item in page.get("Contents", [])]
        prefixes += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
    return keys, prefixes, count


def objects(s3):
    small = content("train/a.jpg", 110_000)
    answer = s3.get_object(Bucket="b", Key="train/a.jpg")
    assert answer["Body"].read() == small
    assert answer["ETag"] == f'"{hashlib.md5(small).hexdigest()}"'
    assert answer["ContentLength"] == len(small) and answer["ContentType"] == "binary/octet-stream"
    head = s3.head_object(Bucket="b", Key="train/a.jpg")
    for name in ["ETag", "ContentLength", "LastModified", "AcceptRanges"]:
        assert head[name] == answer[name], name
    # Over page borders, at both ends, one byte, beyond the end.
    size = 9 << 20
    big, page = content("big", size), 4 << 20
    assert s3.get_object(Bucket="b", Key="big")["Body"].read() == big
    for said, first, last in [
        (f"bytes={page - 10}-{page + 9}", page - 10, page + 9),
        ("bytes=0-0", 0, 0),
        ("bytes=1000-", 1000, size - 1),
        ("bytes=-7", size - 7, size - 1),
        (f"bytes=5-{size + 5}", 5, size - 1),
        (f"bytes=-{size + 5}", 0, size - 1),
    ]:
        part = s3.get_object(Bucket="b", Key="big", Range=said)
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206, said
        assert part["ContentRange"] == f"bytes {first}-{last}/{size}", (said, part["ContentRange"])
        assert part["Body"].read() == big[first : last + 1], said
    refused(416, "InvalidRange", s3.get_object, Bucket="b", Key="big", Range=f"bytes={size}-")
    refused(416, "InvalidRange", s3.get_object, Bucket="b", Key="nothing", Range="bytes=0-0")
    assert s3.get_object(Bucket="b", Key="nothing")["Body"].read() == b""


def conditions(s3):
    key = {"Bucket": "b", "Key": "train/a.jpg"}
    head = s3.head_object(**key)
    tag, date = head["ETag"], head["LastModified"]
    assert s3.get_object(IfMatch=tag, **key)["ETag"] == tag
    assert s3.get_object(IfNoneMatch='"other"', **key)["ETag"] == tag
    assert s3.get_object(IfUnmodifiedSince=date, **key)["ETag"] == tag
    refused(412, "PreconditionFailed", s3.get_object, IfMatch='"other"', **key)
    refused(304, "304", s3.get_object, IfNoneMatch=tag, **key)
    refused(304, "304", s3.head_object, IfNoneMatch=tag, **key)
    refused(304, "304", s3.get_object, IfModifiedSince=date, **key)


def hostile(s3):
    names = ["a b", "a+b", "a%2Fb", "a%20b", "ä/ß 漢字.jpg", "q?x=1&y#z", "folder/", "x//y", "./dot", "t'\"<&>"]
    keys = [f"odd/{name}" for name in names]
    assert sorted(listed(s3, Prefix="odd/")[0]) == sorted(keys)
    for key in keys:
        assert s3.head_object(Bucket="b", Key=key)["ContentLength"] == 100, key
        if key == "odd/./dot":
            message = refused(500, "InternalError", s3.get_object, Bucket="b", Key=key)
            assert "no URL can carry" in message, message
            continue
        assert s3.get_object(Bucket="b", Key=key)["Body"].read() == content(key, 100), key
    below, folded, _ = listed(s3, Prefix="odd/", Delimiter="/")
    assert set(folded) == {"odd/folder/", "odd/ä/", "odd/x/", "odd/./"}, folded
    assert "odd/a%2Fb" in below and "odd/a+b" in below


def listings(s3):
    many = [f"many/{number:05}" for number in range(1_500)]
    keys, prefixes, pages = listed(s3, Prefix="many/")
    assert keys == many and prefixes == [] and pages == 2
    assert listed(s3, Prefix="many/", PaginationConfig={"PageSize": 7})[0] == many
    assert listed(s3, Prefix="many/", StartAfter="many/01489")[0] == many[1490:]
    assert listed(s3, Prefix="many/0149")[0] == many[1490:]
    assert listed(s3, Prefix="none/") == ([], [], 1)
    assert listed(s3, Delimiter="/")[1] == ["many/", "odd/", "sort/", "train/", "val/"]
    assert listed(s3, Delimiter="/")[0] == ["big", "nothing"]
    # A folder sorts by its slash, after names that go on with a space, - or . there.
    order = ["sort/a-b/c", "sort/a.x", "sort/a/b", "sort/a/c", "sort/a0", "sort/b"]
    for size in [1, 2, 3, 1000]:
        for delimiter, expected in [("", order), ("/", ["sort/a-b/", "sort/a.x", "sort/a/", "sort/a0", "sort/b"])]:
            found = []
            arguments = {"Bucket": "b", "Prefix": "sort/", "MaxKeys": size, "Delimiter": delimiter}
            while True:
                page = s3.list_objects_v2(**arguments)
                names = [item["Key"] for item in page.get("Contents", [])]
                found += sorted(names + [item["Prefix"] for item in page.get("CommonPrefixes", [])])
                if not page["IsTruncated"]:
                    break
                arguments["ContinuationToken"] = page["NextContinuationToken"]
            assert found == expected, (size, delimiter, found)
    first = s3.list_objects(Bucket="b", Prefix="many/", MaxKeys=1000)
    rest = s3.list_objects(Bucket="b", Prefix="many/", Marker=first["Contents"][-1]["Key"])
    assert [item["Key"] for item in first["Contents"] + rest["Contents"]] == many
    refused(400, "InvalidArgument", s3.list_objects_v2, Bucket="b", ContinuationToken="%%%")
    refused(501, "NotImplemented", s3.list_objects_v2, Bucket="b", Delimiter="-")


def buckets(s3):
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["b"]
    s3.head_bucket(Bucket="b")
    assert s3.get_bucket_location(Bucket="b")["LocationConstraint"] is None
    refused(404, "404", s3.head_bucket, Bucket="other")
    refused(404, "NoSuchBucket", s3.list_objects_v2, Bucket="other")
    refused(404, "NoSuchKey", s3.get_object, Bucket="b", Key="absent")
    refused(404, "404", s3.head_object, Bucket="b", Key="train")


def writes(s3):
    refused(501, "NotImplemented", s3.put_object, Bucket="b", Key="new", Body=b"x" * 100_000)
    refused(501, "NotImplemented", s3.delete_object, Bucket="b", Key="big")
    refused(501, "NotImplemented", s3.delete_objects, Bucket="b", Delete={"Objects": [{"Key": "big"}]})
    refused(501, "NotImplemented", s3.create_multipart_upload, Bucket="b", Key="new")
    refused(501, "NotImplemented", s3.copy_object, Bucket="b", Key="new", CopySource="b/big")
    refused(501, "NotImplemented", s3.create_bucket, Bucket="new")
    refused(501, "NotImplemented", s3.get_object_acl, Bucket="b", Key="big")
    refused(501, "NotImplemented", s3.get_object, Bucket="b", Key="big", VersionId="1")


def who_may(s3):
    key = {"Bucket": "b", "Key": "train/a.jpg"}
    keys = {"aws_access_key_id": "reader", "aws_secret_access_key": "wrong"}
    refused(403, "SignatureDoesNotMatch", client(**keys).get_object, **key)
    keys = {"aws_access_key_id": "stranger", "aws_secret_access_key": "wrong"}
    message = refused(403, "InvalidAccessKeyId", client(**keys).get_object, **key)
    assert "s3-keys" in message, message
    nobody = client(config={"signature_version": botocore.UNSIGNED})
    refused(403, "AccessDenied", nobody.get_object, **key)
    refused(403, "AccessDenied", nobody.list_buckets)
    url = s3.generate_presigned_url("get_object", Params=key, ExpiresIn=600)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == content("train/a.jpg", 110_000)
    try:
        urllib.request.urlopen(url.replace("train/a.jpg", "train/b.jpg"))
        raise AssertionError("a presigned URL is good for its key only")
    except urllib.error.HTTPError as error:
        assert error.code == 403 and b"SignatureDoesNotMatch" in error.read()


S3 = client(config={"signature_version": "s3v4"})
for check in [objects, conditions, hostile, listings, buckets, writes, who_may]:
    check(S3)
print("done")
