"""Lets schemathesis meet what is there: real ids where a valid one is asked for, real signatures for webhooks."""

import base64
import hashlib
import hmac
import json
import os
import re
import time
import uuid

import requests.auth
import schemathesis

SEEDED = json.loads(os.environ["FUZZ_SEEDED"])
UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
# What a 422 may say of a request that the schema allows.
RULES = re.compile(
    r"does not exist|must have a character that can be seen|must be one of|is not a known person"
    r"|is the inviter's own address|must be at most 30d|must be a duration"
    r"|must be the next_cursor|names no event|must be an admin's id or a Clerk user id"
)


TOKEN = re.compile(r"^.+$")


def seeded(kind, value, valid=UUID):
    """One of the seeded values in the place of a valid one, three times out of four; always the same for the same one."""
    if not isinstance(value, str) or not valid.match(value):
        return value
    choice = hashlib.sha256(value.encode()).digest()
    return value if choice[0] % 4 == 0 else SEEDED[kind][choice[1] % len(SEEDED[kind])]


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if path_parameters and "id" in path_parameters:
        for kind in ("organizations", "projects", "invites"):
            if f"/{kind}/" in context.operation.path:
                path_parameters["id"] = seeded(kind, path_parameters["id"])
    if path_parameters and "token" in path_parameters:
        path_parameters["token"] = seeded("tokens", path_parameters["token"], TOKEN)
    return path_parameters


@schemathesis.hook
def map_query(context, query):
    """A long poll waits for a second at most: waiting finds nothing, and the client gives up after 15 seconds."""
    wait = query.get("wait") if query else None
    if isinstance(wait, int) and not isinstance(wait, bool) and 1 < wait <= 30:
        query["wait"] = 1
    return query


@schemathesis.hook
def map_body(context, body):
    for item in body.get("invites") if isinstance(body, dict) and isinstance(body.get("invites"), list) else [body]:
        if isinstance(item, dict):
            if "organization_id" in item:
                item["organization_id"] = seeded("organizations", item["organization_id"])
            if "project_id" in item:
                item["project_id"] = seeded("projects", item["project_id"])
            if isinstance(item.get("role"), str) and item["role"].isprintable() and item["role"].strip():
                item["role"] = "editor" if item.get("project_id") else "member"
            if "token" in item:
                item["token"] = seeded("tokens", item["token"], TOKEN)
    return body


@schemathesis.check
def a_refusal_is_about_what_no_schema_says(ctx, response, case):
    """A request that the schema allows is refused for a rule about what is there, not for its form."""
    if response.status_code != 422 or not case.meta or not case.meta.generation.mode.is_positive:
        return
    problem = response.json()
    for error in problem.get("errors", []):
        # What an address or an origin is, no pattern says.
        is_address = error.get("pointer") in ("/email", "/redirect_url") or error.get("parameter") == "email"
        assert is_address or RULES.search(error["detail"]), f"the schema should have said so: {error}"


class Svix(requests.auth.AuthBase):
    """Signs as Clerk's webhooks are signed."""

    def __call__(self, request):
        body = request.body or b""
        body = body if isinstance(body, bytes) else body.encode()
        svix_id, timestamp = f"msg_{uuid.uuid4().hex}", str(int(time.time()))
        key = base64.b64decode(os.environ["FUZZ_SIGNING_SECRET"].removeprefix("whsec_"))
        signed = f"{svix_id}.{timestamp}.".encode() + body
        signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        request.headers.update({"svix-id": svix_id, "svix-timestamp": timestamp, "svix-signature": f"v1,{signature}"})
        return request


@schemathesis.hook
def before_call(context, case, kwargs):
    if "FUZZ_SIGN" in os.environ:
        kwargs["auth"] = Svix()
