"""Questions about the caller: who am I, may I. Answered from the one rule there is: administrators may."""

import msgspec

from cloudgateway.apiserver.bodies import BodyReader
from edgeappliance.kubeapi.errors import method_not_allowed, unauthorized
from edgeappliance.kubeapi.request import ApiRequest, ApiResponse, Target

AUTHORIZATION = "authorization.k8s.io"
AUTHENTICATION = "authentication.k8s.io"
ADMIN_GROUP = "system:masters"
REVIEWS = (
    (AUTHORIZATION, "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    (AUTHORIZATION, "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    (AUTHENTICATION, "v1", "selfsubjectreviews", "SelfSubjectReview"),
)
"""Group, version, plural and kind of the reviews that are answered."""


def review(request: ApiRequest, target: Target, bodies: BodyReader) -> ApiResponse | None:
    """The answer to a review; None when the request is none."""
    if not any((target.group, target.version, target.resource) == item[:3] for item in REVIEWS):
        return None
    if request.method != "POST":
        raise method_not_allowed("a review is created, nothing else can be done with it")
    value = bodies.read(request)
    if request.user is None:
        raise unauthorized()
    admin = ADMIN_GROUP in request.user.groups
    if target.resource == "selfsubjectaccessreviews":
        value["status"] = {"allowed": admin, "reason": "administrators may do everything" if admin else ""}
    elif target.resource == "selfsubjectrulesreviews":
        rules = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}] if admin else []
        plain = [{"verbs": ["*"], "nonResourceURLs": ["*"]}] if admin else []
        value["status"] = {"resourceRules": rules, "nonResourceRules": plain, "incomplete": False}
    else:
        groups = [*request.user.groups, "system:authenticated"]
        value["status"] = {"userInfo": {"username": request.user.name, "groups": groups}}
    return ApiResponse(201, msgspec.json.encode({"metadata": {}, **value}))
