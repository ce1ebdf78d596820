"""Calls of every operation that the sandbox serves, at every version: `everything(sandbox)`."""

import uuid

import requests

from sandbox import APP_ID, CLIENT_ID, DEVELOPER_KEY, PORTAL, SECRET

REDIRECT = "https://job.example/cb"
OBJECTS = ["/crm/v3/objects", "/crm/objects/2026-03", "/crm/objects/2026-09"]
APP_SCOPES = (
    "developer.webhooks_journal.read developer.webhooks_journal.subscriptions.read developer.webhooks_journal.subscriptions.write "
    "developer.webhooks_journal.snapshots.read developer.webhooks_journal.snapshots.write crm.objects.contacts.read crm.objects.deals.read"
)


class Caller:
    """Calls the sandbox, and fails when the status is another one than expected."""

    def __init__(self, sandbox):
        self.sandbox, self.session = sandbox, requests.Session()
        self.token = self.tokens("2026-03")["access_token"]

    def tokens(self, version, **form):
        form = form or {"grant_type": "refresh_token", "refresh_token": self.sandbox.refresh_token()}
        return self.form(f"/oauth/{version}/token", **form)

    def form(self, path, expect=200, **form):
        return self.send("POST", path, expect, data={"client_id": CLIENT_ID, "client_secret": SECRET, **form}, token=None)

    def send(self, method, path, expect=200, token="own", **options):
        headers = {"authorization": f"Bearer {self.token if token == 'own' else token}"} if token else {}
        response = self.session.request(method, self.sandbox.url + path, headers=headers, timeout=30, **options)
        if response.status_code != expect:
            raise AssertionError(f"{method} {path}: {response.status_code} instead of {expect}: {response.text[:500]}")
        return response.json() if "json" in response.headers.get("content-type", "") else None

    def get(self, path, expect=200, **options):
        return self.send("GET", path, expect, **options)

    def post(self, path, body, expect=200, **options):
        return self.send("POST", path, expect, json=body, **options)

    def put(self, path, body, expect=200, **options):
        return self.send("PUT", path, expect, json=body, **options)

    def patch(self, path, body, expect=200, **options):
        return self.send("PATCH", path, expect, json=body, **options)

    def delete(self, path, expect=204, **options):
        return self.send("DELETE", path, expect, **options)


def oauth(call):
    for version in ("v1", "v3", "2026-03", "2026-09"):
        call.sandbox.control("POST", f"/portals/{PORTAL}/authorization-code", {"redirect_uri": REDIRECT})
        code = call.sandbox.control("POST", f"/portals/{PORTAL}/authorization-code", {"redirect_uri": REDIRECT})["code"]
        given = call.tokens(version, grant_type="authorization_code", code=code, redirect_uri=REDIRECT)
        given = call.tokens(version, grant_type="refresh_token", refresh_token=given["refresh_token"])
        call.form(f"/oauth/{version}/token", 400, grant_type="refresh_token", refresh_token="na1-none")
        if version == "v1":
            call.get(f"/oauth/v1/access-tokens/{given['access_token']}", token=None)
            call.get(f"/oauth/v1/refresh-tokens/{given['refresh_token']}", token=None)
            call.get("/oauth/v1/access-tokens/none", 404, token=None)
            call.delete(f"/oauth/v1/refresh-tokens/{given['refresh_token']}", token=None)
            continue
        call.form(f"/oauth/{version}/token", grant_type="client_credentials", scope=APP_SCOPES)
        call.form(f"/oauth/{version}/token/introspect", token=given["access_token"])
        call.form(f"/oauth/{version}/token/introspect", token=given["refresh_token"], token_type_hint="refresh_token")
        call.form(f"/oauth/{version}/token/introspect", token="none")
        call.form(f"/oauth/{version}/token/revoke", 204, token=given["refresh_token"])


def records(call, base, kind, make):
    path, multi = f"{base}/{kind}", 200 if "2026-09" in base else 207
    one = call.post(path, {"properties": make(1), "associations": []}, 201)
    batch = call.post(f"{path}/batch/create", {"inputs": [{"properties": make(i), "associations": []} for i in (2, 3, 4)]}, 201)
    ids = [one["id"]] + [r["id"] for r in batch["results"]]
    bad = {"properties": {"nosuch": "x"}, "associations": [], "objectWriteTraceId": "b"}
    good = {"properties": make(5), "associations": [], "objectWriteTraceId": "a"}
    ids += [r["id"] for r in call.post(f"{path}/batch/create", {"inputs": [good, bad]}, multi if multi == 207 else 201)["results"]]
    name = "firstname" if kind in ("contacts", "0-1") else "dealname"
    call.get(f"{path}/{ids[0]}?properties={name}&propertiesWithHistory={name}&associations=deals,contacts")
    call.get(f"{path}/99", 404)
    call.get(f"{path}?limit=2&properties={name}")
    call.get(f"{path}?limit=2&archived=false&after={ids[1]}")
    call.patch(f"{path}/{ids[0]}", {"properties": {name: "Ada"}})
    call.patch(f"{path}/{ids[0]}", {"properties": {"nosuch": "Ada"}}, 400)
    call.patch(f"{path}/{ids[0]}", {"properties": {"hs_object_id": "7"}}, 400)
    read = {"properties": [name], "propertiesWithHistory": [name], "inputs": [{"id": i} for i in ids]}
    call.post(f"{path}/batch/read", read)
    call.post(f"{path}/batch/read", {**read, "inputs": [{"id": ids[0]}, {"id": "99"}]}, multi)
    call.post(f"{path}/batch/read", {**read, "inputs": [{"id": str(i)} for i in range(1, 102)]}, 400)
    change = {"properties": {name: "Grace"}}
    call.post(f"{path}/batch/update", {"inputs": [{"id": i, **change, "objectWriteTraceId": i} for i in ids]})
    call.post(f"{path}/batch/update", {"inputs": [{"id": ids[0], **change}, {"id": "99", **change}]}, multi)
    call.post(f"{path}/batch/update", {"inputs": [{"id": ids[0], **change}, {"id": ids[0], **change}]}, 400)
    call.post(f"{path}/batch/upsert", {"inputs": [{"id": ids[0], "idProperty": "hs_object_id", **change, "objectWriteTraceId": "u"}]})
    query = {
        "filterGroups": [{"filters": [{"propertyName": name, "operator": "EQ", "value": "Grace"}]}],
        "sorts": [name],
        "properties": [name],
        "limit": 2,
        "after": "0",
    }
    found = call.post(f"{path}/search", query)
    assert found["total"] >= len(ids), found
    call.post(f"{path}/search", {**query, "after": "9999", "limit": 200}, 400)
    call.post(f"{path}/merge", {"primaryObjectId": ids[0], "objectIdToMerge": ids[1]})
    merged = call.get(f"{path}/{ids[1]}?properties=hs_merged_object_ids")
    assert merged["properties"]["hs_merged_object_ids"] == ids[1], merged
    call.delete(f"{path}/{ids[2]}")
    call.post(f"{path}/batch/archive", {"inputs": [{"id": ids[3]}]}, 204)
    archived = call.get(f"{path}?archived=true&limit=100")["results"]
    assert {r["id"] for r in archived} >= {ids[2], ids[3]}, archived
    return ids[0], ids[4]


def contacts_and_deals(call):
    for base in OBJECTS:
        unique = uuid.uuid4().hex[:8]
        for kind in ("contacts", "0-1"):
            contact, other = records(call, base, kind, lambda i: {"email": f"{kind}{unique}{i}@example.com", "firstname": "A"})
            taken = call.get(f"{base}/{kind}/{contact}?properties=email")["properties"]["email"]
            assert call.get(f"{base}/{kind}/{taken}?idProperty=email")["id"] == contact
            call.post(f"{base}/{kind}", {"properties": {"email": taken}, "associations": []}, 409)
            upsert = {"inputs": [{"id": f"up{unique}{kind}@example.com", "idProperty": "email", "properties": {"firstname": "U"}}]}
            assert call.post(f"{base}/{kind}/batch/upsert", upsert)["results"][0]["new"]
            call.post(f"{base}/{kind}/gdpr-delete", {"objectId": other}, 204)
            call.get(f"{base}/{kind}/{other}?archived=true", 404)
        for kind in ("deals", "0-3"):
            deal, _ = records(call, base, kind, lambda i: {"dealname": f"D{i}", "dealstage": "appointmentscheduled", "amount": "5"})
            call.patch(f"{base}/{kind}/{deal}", {"properties": {"dealstage": "nosuch"}}, 400)
        associations(call, base, contact, deal)


def associations(call, base, contact, deal):
    batch = {
        "/crm/v3/objects": "/crm/v4/associations",
        "/crm/objects/2026-03": "/crm/associations/2026-03",
        "/crm/objects/2026-09": "/crm/associations/2026-09",
    }[base]
    single = "/crm/v4/objects" if base == "/crm/v3/objects" else base
    dated = "2026" in base
    pair, types = f"{batch}/contacts/deals/batch", [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 4}]
    one = {"from": {"id": contact}, "to": {"id": deal}}
    none = {"from": {"id": "99"}, "to": {"id": deal}}
    multi = 200 if "2026-09" in base else 207
    call.post(f"{pair}/create", {"inputs": [{**one, "types": types}]}, 200 if "2026-09" in base else 201)
    call.post(f"{pair}/create", {"inputs": [{**one, "types": types}, {**none, "types": types}]}, multi)
    call.post(f"{pair}/read", {"inputs": [{"id": contact}]})
    call.post(f"{pair}/read", {"inputs": [{"id": contact}, {"id": "99"}]}, multi)
    call.get(f"{single}/contacts/{contact}/associations/deals?limit=1")
    call.post(f"{pair}/archive", {"inputs": [{"from": {"id": contact}, "to": [{"id": deal}]}]}, 200 if dated else 204)
    call.post(f"{pair}/associate/default", {"inputs": [one]})
    call.delete(f"{single}/contacts/{contact}/associations/deals/{deal}")
    call.put(f"{single}/contacts/{contact}/associations/deals/{deal}", types, 201)
    call.send("PUT", f"{single}/contacts/{contact}/associations/default/deals/{deal}")


def properties(call):
    for number, base in enumerate(["/crm/v3/properties", "/crm/properties/2026-03", "/crm/properties/2026-09"]):
        path, multi = f"{base}/contacts", 200 if "2026-09" in base else 207
        group, prefix = f"elido_{number}", f"p{number}_"
        new = lambda name: {"groupName": group, "name": prefix + name, "label": "L", "type": "string", "fieldType": "text"}
        call.get(f"{path}/{prefix}a", 404)
        call.post(f"{path}/groups", {"name": group, "label": "Elido", "displayOrder": -1}, 201)
        call.post(f"{path}/groups", {"name": group, "label": "Elido", "displayOrder": -1}, 409)
        call.get(f"{path}/groups")
        call.get(f"{path}/groups/{group}")
        call.patch(f"{path}/groups/{group}", {"label": "Elido too", "displayOrder": 2})
        call.post(path, new("a"), 201)
        call.post(path, new("a"), 409)
        choice = {"label": "One", "value": "one", "displayOrder": 0, "hidden": False}
        call.post(path, {**new("e"), "type": "enumeration", "fieldType": "select", "options": [choice]}, 201)
        call.get(path)
        call.get(f"{path}/{prefix}e")
        call.patch(f"{path}/{prefix}a", {"label": "M"})
        call.post(f"{path}/batch/create", {"inputs": [new("b"), new("c")]}, 200 if "2026-09" in base else 201)
        call.post(f"{path}/batch/create", {"inputs": [new("b"), new("d")]}, multi)
        names = lambda *all: {"archived": False, "inputs": [{"name": prefix + n} for n in all], "dataSensitivity": "non_sensitive"}
        call.post(f"{path}/batch/read", names("a", "b"))
        call.post(f"{path}/batch/read", names("a", "z"), multi)
        call.post(f"{path}/batch/archive", {"inputs": [{"name": prefix + "b"}, {"name": prefix + "c"}]}, 204)
        call.delete(f"{path}/{prefix}a")
        call.get(f"{path}/{prefix}a?archived=true")
        call.post(f"{path}/groups", {"name": f"empty_{number}", "label": "Empty"}, 201)
        call.delete(f"{path}/groups/empty_{number}")


def pipelines(call):
    stage = lambda label, order: {"label": label, "displayOrder": order, "metadata": {"probability": "0.5"}}
    for base in ("/crm/v3/pipelines/deals", "/crm/pipelines/2026-03/deals", "/crm/pipelines/2026-09/deals"):
        call.get(base)
        made = call.post(base, {"label": f"P{base}", "displayOrder": 1, "stages": [stage("Open", 0), stage("Later", 1)]}, 201)
        path = f"{base}/{made['id']}"
        call.get(path)
        call.get(f"{base}/none", 404)
        call.patch(path, {"label": f"Q{base}", "displayOrder": 2})
        call.put(path, {"label": f"R{base}", "displayOrder": 2, "stages": [stage("Open", 0), stage("Later", 1)]})
        call.get(f"{path}/stages")
        made = call.post(f"{path}/stages", stage("Last", 2), 201)
        call.get(f"{path}/stages/{made['id']}")
        call.patch(f"{path}/stages/{made['id']}", {"label": "Final", "metadata": {"probability": "0.6"}})
        call.put(f"{path}/stages/{made['id']}", stage("Very last", 3))
        call.delete(f"{path}/stages/{made['id']}")
        call.delete(path)


def timeline(call, contact):
    key = f"?hapikey={DEVELOPER_KEY}"
    token = lambda name: {"name": name, "label": name, "type": "string", "options": []}
    for base in ("/integrators/timeline/v3", "/crm/v3/timeline"):
        path = f"{base}/{APP_ID}/event-templates"
        new = {"name": "Click", "objectType": "contacts", "headerTemplate": "{{link}}", "detailTemplate": "", "tokens": [token("link")]}
        template = call.post(path + key, new, 201, token=None)["id"]
        call.get(path + key, token=None)
        call.get(f"{path}/{template}{key}", token=None)
        call.get(f"{path}/99{key}", 404, token=None)
        call.put(f"{path}/{template}{key}", {"id": template, "name": "Clicked", "tokens": [token("link")]}, token=None)
        call.post(f"{path}/{template}/tokens{key}", token("page"), token=None)
        call.put(f"{path}/{template}/tokens/page{key}", {"label": "Page", "options": []}, token=None)
        call.delete(f"{path}/{template}/tokens/page{key}", token=None)
        event = lambda id, **more: {
            "eventTemplateId": template, "id": id, "objectId": contact, "tokens": {"link": "x"}, "timestamp": "2026-11-23T08:15:30.123Z", **more,
        }
        iframe = {"linkLabel": "Open", "headerLabel": "Click", "url": "https://x", "width": 800, "height": 400}
        call.post(f"{base}/events", event(f"one{template}", extraData={"a": {"b": 1}}, timelineIFrame=iframe), 201)
        call.post(f"{base}/events", event(f"one{template}"), 409)
        call.get(f"{base}/events/{template}/one{template}")
        call.post(f"{base}/events/batch/create", {"inputs": [event(f"two{template}"), event(f"three{template}")]}, 201)
        call.post(f"{base}/events/batch/create", {"inputs": [event(f"two{template}"), event(f"four{template}")]}, 207)
        call.delete(f"{path}/{template}{key}", token=None)


def app_events(call, contact):
    properties = [{"name": "link", "label": "Link", "type": "string", "options": []}]
    kind = {"uid": "link_click", "config": {"name": "Link click", "headerTemplate": "{{link}}", "objectType": "CONTACT", "properties": properties}}
    name = call.sandbox.control("POST", f"/apps/{CLIENT_ID}/event-types", kind)["fullyQualifiedName"]
    for prefix in ("/integrators/timeline/2026-03", "/integrators/timeline/v4"):
        symbol = {"developerSymbol": "link_click", "projectName": "clickline"}
        call.post(f"{prefix}/types/projects?hapikey={DEVELOPER_KEY}", symbol, token=None)
        call.post(f"{prefix}/types/projects?hapikey={DEVELOPER_KEY}", {**symbol, "developerSymbol": "none"}, 404, token=None)
        event = lambda id: {
            "eventTypeName": name, "id": f"{prefix}{id}", "objectId": contact, "properties": {"link": "x"}, "timestamp": "2026-11-23T08:15:30.123Z",
            "extraData": {"a": {"b": 1}},
        }
        for answer, status in (("accepted", 200), ("created", 201)):
            call.sandbox.control("PATCH", "/settings", {"app_events": answer})
            call.post(f"{prefix}/events", event(f"one {answer}"), status)
            call.post(f"{prefix}/events", event(f"one {answer}"), 409)
            call.post(f"{prefix}/events/batch", {"inputs": [event(f"two {answer}"), event(f"three {answer}")]})
            call.post(f"{prefix}/events/batch", {"inputs": [event(f"two {answer}"), event(f"four {answer}")]}, 409)
        call.post(f"{prefix}/events", {**event("bad"), "properties": {"nosuch": "x"}}, 400)


def custom_events(call, contact):
    for number, base in enumerate(["/events/v3", "/events/2026-03", "/events/custom/2026-09"]):
        path = f"{base}/event-definitions"
        new = {
            "label": f"Link click {number}", "name": f"link_click_{number}", "includeDefaultProperties": False, "primaryObject": "CONTACT",
            "propertyDefinitions": [{"label": "Link", "name": "link", "type": "string"}],
        }
        name = call.post(path, new, 201)["fullyQualifiedName"]
        call.post(path, new, 409)
        call.get(f"{path}?limit=1&searchString=link")
        call.get(f"{path}/{name}")
        call.get(f"{path}/none", 404)
        call.patch(f"{path}/{name}", {"label": "Clicked"}, 201)
        option = {"label": "One", "value": "one", "displayOrder": 0, "hidden": False}
        call.post(f"{path}/{name}/property", {"label": "Kind", "name": "kind", "type": "enumeration", "options": [option]}, 201)
        call.patch(f"{path}/{name}/property/kind", {"label": "Sort", "options": [option]}, 201)
        event = lambda id: {
            "eventName": name, "objectId": contact, "uuid": id, "occurredAt": "2026-11-23T08:15:30.123Z", "properties": {"link": "x", "kind": "one"},
        }
        call.post(f"{base}/send", event("one"), 204)
        call.post(f"{base}/send", event("one"), 204)
        call.post(f"{base}/send", {**event("two"), "eventName": "none"}, 400)
        call.post(f"{base}/send/batch", {"inputs": [event("two"), event("three")]}, 204)
        call.delete(f"{path}/{name}/property/kind")
    stored = [e for e in call.sandbox.snapshot()["events"] if e["template_id"] == name]
    assert [e["id"] for e in stored] == ["one", "two", "three"], stored
    call.delete(f"{path}/{name}")


def webhooks(call):
    key = f"?hapikey={DEVELOPER_KEY}"
    for base in ("/webhooks/v3", "/webhooks/2026-03", "/app-webhooks/2026-09"):
        path, multi = f"{base}/{APP_ID}", 200 if "2026-09" in base else 207
        call.get(f"{path}/settings{key}", 404, token=None)
        call.put(f"{path}/settings{key}", {"targetUrl": "https://job.example/hook", "throttling": {"maxConcurrentRequests": 5}}, token=None)
        call.get(f"{path}/settings{key}", token=None)
        new = {"eventType": "deal.propertyChange", "propertyName": "dealstage", "active": False}
        id = call.post(f"{path}/subscriptions{key}", new, 201, token=None)["id"]
        call.get(f"{path}/subscriptions{key}", token=None)
        call.get(f"{path}/subscriptions/{id}{key}", token=None)
        call.patch(f"{path}/subscriptions/{id}{key}", {"active": False}, token=None)
        call.post(f"{path}/subscriptions/batch/update{key}", {"inputs": [{"id": int(id), "active": False}]}, token=None)
        call.post(f"{path}/subscriptions/batch/update{key}", {"inputs": [{"id": int(id), "active": False}, {"id": 99, "active": False}]}, multi, token=None)
        call.delete(f"{path}/subscriptions/{id}{key}", token=None)
        call.delete(f"{path}/settings{key}", token=None)


def journal(call, contact):
    token = call.tokens("2026-03", grant_type="client_credentials", scope=APP_SCOPES)["access_token"]
    options, base = {"token": token}, "/webhooks-journal"
    subscriptions = f"{base}/subscriptions/2026-03"
    new = {
        "subscriptionType": "OBJECT", "portalId": int(PORTAL), "objectTypeId": "0-1", "objectIds": [], "properties": ["firstname"],
        "actions": ["CREATE", "UPDATE", "DELETE", "MERGE", "RESTORE"],
    }
    id = call.post(subscriptions, new, **options)["id"]
    pair = {
        "subscriptionType": "ASSOCIATION", "portalId": int(PORTAL), "objectTypeId": "0-3", "objectIds": [], "associatedObjectTypeIds": ["0-1"],
        "actions": ["ASSOCIATION_ADDED", "ASSOCIATION_REMOVED"],
    }
    call.post(subscriptions, pair, **options)
    gone = {"subscriptionType": "GDPR_PRIVACY_DELETION", "portalId": int(PORTAL), "objectTypeId": "0-1", "actions": ["GDPR_DELETE"]}
    call.post(subscriptions, gone, **options)
    call.get(subscriptions, **options)
    call.get(f"{subscriptions}/{id}", **options)
    call.get(f"{subscriptions}/99", 404, **options)
    call.get(f"{base}/journal/2026-03/earliest", 204, **options)
    for name in ("Ada", "Grace", "Alan"):
        call.patch(f"/crm/v3/objects/contacts/{contact}", {"properties": {"firstname": name}})
    wanted = {"portalId": int(PORTAL), "objectTypeId": "0-1", "objectId": int(contact), "properties": ["firstname"]}
    snapshot = call.post(f"{base}/snapshots/2026-03/crm", {"snapshotRequests": [wanted]}, **options)["snapshotResponses"][0]["snapshotStatusId"]
    for kind in ("journal", "journal-local"):
        path = f"{base}/{kind}/2026-03"
        first = call.get(f"{path}/earliest?installPortalId={PORTAL}", **options)
        file = requests.get(first["url"], timeout=30).json()
        assert file["journalEvents"][0]["propertyChanges"] == {"firstname": "Ada"}, file
        assert requests.get(first["url"] + "0", timeout=30).status_code == 403
        call.get(f"{path}/latest", **options)
        call.get(f"{path}/offset/{first['currentOffset']}/next", **options)
        call.get(f"{path}/batch/earliest/2", **options)
        call.get(f"{path}/batch/latest/2", **options)
        call.get(f"{path}/batch/{first['currentOffset']}/next/10", **options)
        call.post(f"{path}/batch/read", {"inputs": [first["currentOffset"]]}, **options)
        call.post(f"{path}/batch/read", {"inputs": [first["currentOffset"], str(uuid.uuid4())]}, 207, **options)
        call.get(f"{path}/status/{snapshot}", **options)
    condition = {"filterType": "CRM_OBJECT_PROPERTY", "property": "firstname", "operator": "EQ", "value": "Ada"}
    filter = call.post(f"{subscriptions}/filters", {"subscriptionId": id, "filter": {"conditions": [condition]}}, **options)["filterId"]
    call.get(f"{subscriptions}/filters/{filter}", **options)
    call.get(f"{subscriptions}/filters/subscription/{id}", **options)
    call.delete(f"{subscriptions}/filters/{filter}", **options)
    call.delete(f"{subscriptions}/{id}", **options)
    call.delete(f"{subscriptions}/portals/{PORTAL}", **options)


def forms(call):
    guid = call.sandbox.control("POST", f"/portals/{PORTAL}/forms", {"name": "Contact us", "fields": [{"name": "email", "required": True}]})["guid"]
    call.get("/marketing/v3/forms")
    call.get(f"/marketing/v3/forms/{guid}")
    made = call.post("/marketing/v3/forms", {"name": "More", "formType": "hubspot", "fieldGroups": [{"fields": [{"name": "email"}]}]}, 201)["id"]
    call.delete(f"/marketing/v3/forms/{made}")
    sent = {"fields": [{"objectTypeId": "0-1", "name": "email", "value": "form@example.com"}], "context": {"pageUri": "https://x.com/?gclid=AbC"}}
    call.post(f"/submissions/v3/integration/submit/{PORTAL}/{guid}", sent, token=None)
    call.post(f"/submissions/v3/integration/submit/{PORTAL}/{guid}", {"fields": []}, 400, token=None)
    call.post(f"/submissions/v3/integration/secure/submit/{PORTAL}/{guid}", sent)
    listed = call.get(f"/form-integrations/v1/submissions/forms/{guid}?limit=1")
    assert listed["paging"]["next"]["after"] == "1", listed


def account(call):
    static = call.sandbox.control("POST", f"/portals/{PORTAL}/static-token")["token"]
    for version in ("v3", "2026-09"):
        call.get(f"/account-info/{version}/details")
        call.get(f"/account-info/{version}/api-usage/daily/private-apps", token=static)
    call.get("/crm/v3/objects/contacts", 401, token="CPnone")
    call.token, own = call.tokens("v3", grant_type="refresh_token", refresh_token=call.sandbox.refresh_token(["oauth"]))["access_token"], call.token
    call.get("/crm/v3/objects/contacts", 403)
    call.get("/no/such/path", 404)
    for version in ("v3", "2026-09"):
        call.token = call.tokens("v3")["access_token"]
        call.delete(f"/appinstalls/{version}/external-install")
    call.token = own


def refusals(call, contact):
    call.get("/oauth/authorize", 400, token=None)
    call.get("/crm/v3/objects/planets", 400)
    call.put("/crm/v3/objects/contacts", {}, 405)
    key = f"?hapikey={DEVELOPER_KEY}"
    new = {"name": "Again", "objectType": "contacts", "tokens": []}
    template = call.post(f"/integrators/timeline/v3/{APP_ID}/event-templates{key}", new, 201, token=None)["id"]
    event = {"eventTemplateId": template, "id": "again", "objectId": contact, "tokens": {}}
    call.post("/integrators/timeline/v3/events", event, 201)
    call.sandbox.control("PATCH", "/settings", {"duplicate_events": "bad_request"})
    call.post("/integrators/timeline/v3/events", event, 400)
    call.sandbox.control("PATCH", "/settings", {"duplicate_events": "accept"})
    call.post("/integrators/timeline/v3/events", event, 201)
    for limit, back, path in (("burst_limit", 100000, "/crm/v3/objects/contacts"), ("oauth_daily_limit", 100000, "/crm/v3/objects/contacts")):
        call.sandbox.control("PATCH", "/settings", {limit: 0, "retry_after": True})
        call.get(path, 429)
        call.sandbox.control("PATCH", "/settings", {limit: back})
    call.sandbox.control("PATCH", "/settings", {"search_limit": 0})
    call.post("/crm/v3/objects/contacts/search", {}, 429)
    call.sandbox.control("PATCH", "/settings", {"search_limit": 100000})


def everything(sandbox):
    """Fails on the first answer with another status than expected."""
    call = Caller(sandbox)
    oauth(call)
    contacts_and_deals(call)
    properties(call)
    pipelines(call)
    contact = call.post("/crm/v3/objects/contacts", {"properties": {"email": "event@example.com"}, "associations": []}, 201)["id"]
    timeline(call, contact)
    app_events(call, contact)
    custom_events(call, contact)
    webhooks(call)
    journal(call, contact)
    forms(call)
    refusals(call, contact)
    account(call)
