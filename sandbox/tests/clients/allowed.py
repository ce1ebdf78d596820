"""Where the sandbox and the OpenAPI files differ, each with its reason. What is not listed here fails; so does what is listed
and no longer needed."""

import re

# ((call, file, problem), each a regular expression; why it is no problem)
ALLOWED = [
    # Errors.
    (
        (r" [45]\d\d$", "", r"^answer: \$: Additional properties are not allowed \((?:'status'|'error'|'error_description'|, )+ (?:was|were) unexpected\)$"),
        "the files leave `status` out of errors, and `error` and `error_description` out of those of OAuth; HubSpot's guide on errors "
        "and its changelog show them",
    ),
    (
        (r"^POST /oauth/\S+/token 40[01]$", "oauth", "^answer: .*'category' is a required property"),
        "errors of the token endpoint have no category: the changelog of OAuth v3 and all who quote such an answer",
    ),
    (
        (" 429$", "", r"^answer: \$: (?:'category' is a required property|Additional properties are not allowed \((?:'errorType'|'groupName'|'policyName'|'requestId'|'status'|, )+ were unexpected\))$"),
        "429 has a policy and a group and no category: HubSpot's guide on usage, and HubSpot/hubspot-api-python issue 117",
    ),
    (
        (r"^POST /(integrators/timeline/v3|crm/v3/timeline)/events(/batch/create)? (400|207)$", "timeline.v3", r"^answer: \$(\.errors\[\d+\])?: 'category' is a required property$"),
        "one of three ways to answer a known event id: the text of version 1, which had no category",
    ),
    # OAuth.
    (
        ("^POST /oauth/.*/introspect 200$", "oauth", r"^answer: .*\{'active': False\} is not valid"),
        "an unknown token is answered with `active` alone, which is all that the base schema requires",
    ),
    (
        ("^POST /oauth/2026-09/token/introspect 200$", "oauth.2026-09", "^answer: .*'app_id', .*'user_id' were unexpected"),
        "the file of 2026-09 has the base schema only; the one of 2026-03 has all fields",
    ),
    (
        ("^POST /oauth/2026-09/token 200$", "oauth.2026-09", "^answer: the status is not described"),
        "the file of 2026-09 lists no success; the one of 2026-03 does",
    ),
    (
        ("^POST /oauth/2026-09/token 200$", "oauth.2026-09", "^request: .*'client_credentials' is not one of"),
        "the file of 2026-09 does not list this grant type; a journal that is not to end with 2026-03 needs it",
    ),
    (
        ("^POST /oauth/.*/revoke 204$", "oauth", "^answer: the status is not described"),
        "the files list no success of revoke; 204 is what its predecessor answers",
    ),
    # Records and associations.
    (
        (" 20[017]$", "contacts|deals", r"^answer: \$(\.results\[\d+\])?\.properties\.\w+: None is not of type 'string'$"),
        "a property without a value is null, as HubSpot's guides show",
    ),
    (
        (r"/associations/.* 20[07]$", "associations", r"^answer: .*\.toObjectId: \d+ is not of type 'string'$"),
        "ids are numbers here, as HubSpot's guides show; the files say text",
    ),
    (
        (r"/associations/.* 20[07]$", "associations", r"^answer: .*\.associationTypes\[0\]\.label: None is not of type 'string'$"),
        "an association without a label says null, as HubSpot's guides show",
    ),
    (
        (r"/associations/.* 20[07]$", "associations", r"^answer: .*\.subCategory: 'crm\.\S+' is not of type 'object'$"),
        "the files describe `subCategory` as an empty object; everybody who quotes one shows text",
    ),
    (
        ("^GET /crm/objects/2026-09/.*/associations/.* 200$", "no file", ""),
        "the file of 2026-09 leaves this call out; HubSpot's guides keep it",
    ),
    # Events, webhooks and their journal.
    (
        ("^POST /integrators/timeline/(2026-03|v4)/events/batch 200$", "timeline-app-events", "^answer: no body where one is described"),
        "HubSpot's own text: accepted with an empty body; `app_events = created` has the body",
    ),
    (
        ("", "timeline|webhooks", "^request: unknown parameter hapikey$"),
        "the developer's key, which the files describe as credentials and not as a parameter",
    ),
    (
        ("^GET /webhooks-journal/journal.* (200|204)$", "webhooks", "^answer: the status is not described"),
        "the files list no success for the three basic calls; their schema is that of the results of the batch calls",
    ),
    # What is in none of the files.
    (("^GET /journal-files/", "no file", ""), "the files of the journal are no API: their format is what clients in the field read"),
    (("^(GET|POST|DELETE) /marketing/v3/forms", "no file", ""), "form definitions: no file in the folder; HubSpot's own client reads them"),
    (("^(GET|POST) /(form-integrations|submissions)/", "no file", ""), "submissions: HubSpot publishes no file; the guide has the format"),
    ((r"^(GET|POST) /oauth/(\d+/)?authorize (200|302|400)$", "no file", ""), "the page on which a person decides: no API"),
    ((" (400|404|405)$", "no file", r"^call"), "a path, a method or an object type that does not exist"),
]

# Of requests that clickline itself makes; seen only where the logs of the other tests are looked at.
REQUESTS = [
    (
        ("^POST /crm/.*/search ", "contacts|deals", r"^request: \$\.sorts\[0\]: \{.*\} is not of type 'string'$"),
        "HubSpot's guide to the search sorts by objects with `propertyName` and `direction`; the files say text, which can't say both",
    ),
    (
        ("^POST /oauth/.*/revoke ", "oauth", r"^request: \$: Additional properties are not allowed \('refresh_token' was unexpected\)$"),
        "the files call the field `token`, HubSpot's guide of version 3 by what it holds: both are sent, the same token in either",
    ),
]

# Operations of the files that are not called, and why.
NOT_CALLED = {
    "POST /crm/objects/2026-03/{objectType}/search": "the same as the search of contacts and deals, which have their own templates",
}
for base in ("/crm/v4/associations", "/crm/associations/2026-03", "/crm/associations/2026-09"):
    NOT_CALLED[f"POST {base}/{{fromObjectType}}/{{toObjectType}}/batch/labels/archive"] = "the sandbox keeps no labels"
    NOT_CALLED[f"POST {base}/usage/high-usage-report/{{userId}}"] = "sends a report by e-mail"
for base in ("/crm/v3/pipelines", "/crm/pipelines/2026-03", "/crm/pipelines/2026-09"):
    pipeline = f"GET {base}/{{objectType}}/{{pipelineId}}"
    for path in (f"{pipeline}/audit", f"{pipeline}/stages/{{stageId}}/audit"):
        NOT_CALLED[path] = "the sandbox keeps no audit of definitions"


def reason(call, file, problem):
    """Why a problem is none, if it is none."""
    for (call_pattern, file_pattern, problem_pattern), why in ALLOWED + REQUESTS:
        if re.search(call_pattern, call) and re.search(file_pattern, file) and re.search(problem_pattern, problem):
            return why
    return None


def reasons():
    return [why for _, why in ALLOWED]


def kinds(path):
    """The types of records that a path names."""
    names = re.findall(r"/(contacts|deals|0-1|0-3)(?=/|$)", path)
    return tuple(sorted({{"0-1": "contacts", "0-3": "deals"}.get(name, name) for name in names}))


def about(scope, kinds):
    """Whether a scope is about one of these types. The files list the scopes of all types at once where the type is a part of
    the path; only those of the type that is named are enough."""
    named = re.search(r"\.(contacts|deals)\.", scope)
    return not kinds or not named or named.group(1) in kinds
