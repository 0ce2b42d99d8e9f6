"""Every call of s3sim through boto3, as clients.rs runs it: boto.py ENDPOINT ACCESS SECRET."""

import os
import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, access, secret = sys.argv[1:]


def client(secret):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def refused(code, call, **args):
    try:
        call(**args)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return
    raise AssertionError(f"expected {code}")


s3 = client(secret)
s3.create_bucket(Bucket="b")
assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["b"]
s3.head_bucket(Bucket="b")
assert s3.get_bucket_location(Bucket="b")["LocationConstraint"] is None
refused("NoSuchBucket", s3.list_objects_v2, Bucket="none")
refused("SignatureDoesNotMatch", client("wrong").list_objects_v2, Bucket="b")

keys = ["a", "a/", "a/b", "a//b", "../x", "with space+plus", "é/ü&<>", "control\x01", "p" * 300]
for key in keys:
    put = s3.put_object(Bucket="b", Key=key, Body=key.encode(), Metadata={"mark": "1"})
    got = s3.get_object(Bucket="b", Key=key)
    assert got["Body"].read() == key.encode() and got["ETag"] == put["ETag"], key
    assert got["Metadata"] == {"mark": "1"}, got
pages = s3.get_paginator("list_objects_v2").paginate(Bucket="b", PaginationConfig={"PageSize": 2})
assert [item["Key"] for page in pages for item in page["Contents"]] == sorted(keys)
page = s3.list_objects(Bucket="b", Delimiter="/")
assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["../", "a/", "é/"]

body = os.urandom(13 * 1024 * 1024 + 7)
with open(os.path.join(os.environ["WORK"], "large"), "wb") as file:
    file.write(body)
part = TransferConfig(multipart_threshold=1, multipart_chunksize=5 * 1024 * 1024)
s3.upload_file(file.name, "b", "large", Config=part)
assert s3.head_object(Bucket="b", Key="large")["ETag"].endswith('-3"')
assert s3.get_object(Bucket="b", Key="large")["Body"].read() == body
assert s3.get_object(Bucket="b", Key="large", Range="bytes=5-9")["Body"].read() == body[5:10]
refused("InvalidRange", s3.get_object, Bucket="b", Key="a", Range="bytes=9-")
refused("PreconditionFailed", s3.get_object, Bucket="b", Key="a", IfMatch='"0"')
upload = s3.create_multipart_upload(Bucket="b", Key="gone")["UploadId"]
s3.upload_part(Bucket="b", Key="gone", UploadId=upload, PartNumber=1, Body=b"x")
assert len(s3.list_parts(Bucket="b", Key="gone", UploadId=upload)["Parts"]) == 1
s3.abort_multipart_upload(Bucket="b", Key="gone", UploadId=upload)
refused("NoSuchUpload", s3.list_parts, Bucket="b", Key="gone", UploadId=upload)

s3.copy_object(Bucket="b", Key="copy", CopySource={"Bucket": "b", "Key": "with space+plus"})
assert s3.get_object(Bucket="b", Key="copy")["Body"].read() == b"with space+plus"
url = s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "copy"})
import urllib.request
assert urllib.request.urlopen(url).read() == b"with space+plus"

s3.delete_object(Bucket="b", Key="copy")
refused("NoSuchKey", s3.get_object, Bucket="b", Key="copy")
deletable = [key for key in keys if "\x01" not in key] + ["large"]
deleted = s3.delete_objects(Bucket="b", Delete={"Objects": [{"Key": key} for key in deletable]})
assert len(deleted["Deleted"]) == len(deletable) and "Errors" not in deleted, deleted
s3.delete_object(Bucket="b", Key="control\x01")
assert s3.list_objects_v2(Bucket="b")["KeyCount"] == 0
s3.delete_bucket(Bucket="b")
print("done")
