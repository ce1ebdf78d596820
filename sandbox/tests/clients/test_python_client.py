"""HubSpot's own client from PyPI against the sandbox."""

import unittest
from datetime import datetime, timezone

from hubspot import HubSpot
from hubspot.crm import associations, contacts, deals, pipelines, properties, timeline
from hubspot.events import send
from hubspot.oauth import ApiException as OAuthError

from sandbox import APP_ID, CLIENT_ID, DEVELOPER_KEY, PORTAL, SECRET, Sandbox, problems


class PythonClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sandbox = Sandbox()
        cls.refresh_token = cls.sandbox.refresh_token()
        cls.client = cls.connect()
        tokens = cls.client.oauth.tokens_api.create(
            grant_type="refresh_token", client_id=CLIENT_ID, client_secret=SECRET, refresh_token=cls.refresh_token
        )
        cls.tokens = tokens
        cls.client = cls.connect(access_token=tokens.access_token)

    @classmethod
    def connect(cls, **options):
        client = HubSpot(**options)
        client.config["host"] = cls.sandbox.url
        return client

    @classmethod
    def tearDownClass(cls):
        cls.log = cls.sandbox.stop()
        found, _, _ = problems(cls.log)
        assert not found, "\n".join(found)
        assert len({(r["method"], r["path"]) for r in cls.log}) >= 30

    def test_oauth(self):
        self.assertEqual((1800, self.refresh_token), (self.tokens.expires_in, self.tokens.refresh_token))
        info = self.client.oauth.access_tokens_api.get(self.tokens.access_token)
        self.assertEqual((int(PORTAL), APP_ID), (info.hub_id, info.app_id))
        self.assertEqual(CLIENT_ID, self.client.oauth.refresh_tokens_api.get(self.refresh_token).client_id)
        with self.assertRaises(OAuthError) as raised:
            self.client.oauth.tokens_api.create(grant_type="refresh_token", client_id=CLIENT_ID, client_secret=SECRET, refresh_token="na1-none")
        self.assertEqual(400, raised.exception.status)
        self.assertIn("BAD_REFRESH_TOKEN", raised.exception.body)

    def test_contacts(self):
        api = self.client.crm.contacts
        ada = api.basic_api.create(contacts.SimplePublicObjectInputForCreate(properties={"email": "ada@example.com"}, associations=[]))
        changed = api.basic_api.update(ada.id, contacts.SimplePublicObjectInput(properties={"firstname": "Ada"}))
        self.assertEqual("Ada", changed.properties["firstname"])
        read = api.basic_api.get_by_id("ada@example.com", id_property="email", properties=["firstname"], properties_with_history=["firstname"])
        self.assertEqual((ada.id, "Ada"), (read.id, read.properties["firstname"]))
        self.assertEqual("INTEGRATION", read.properties_with_history["firstname"][0].source_type)
        with self.assertRaises(contacts.ApiException) as raised:
            api.basic_api.get_by_id("99")
        self.assertEqual(404, raised.exception.status)

        inputs = [contacts.SimplePublicObjectBatchInputForCreate(properties={"email": f"b{n}@example.com"}, associations=[]) for n in range(3)]
        made = api.batch_api.create(contacts.BatchInputSimplePublicObjectBatchInputForCreate(inputs=inputs))
        ids = [r.id for r in made.results]
        inputs = [contacts.SimplePublicObjectBatchInput(id=i, properties={"lastname": "L"}, object_write_trace_id=i) for i in ids + ["99"]]
        partial = api.batch_api.update(contacts.BatchInputSimplePublicObjectBatchInput(inputs=inputs))
        self.assertEqual(set(ids), {r.id for r in partial.results})
        self.assertEqual((1, ["99"]), (partial.num_errors, partial.errors[0].context["objectWriteTraceId"]))
        wanted = [contacts.SimplePublicObjectId(id=i) for i in ids]
        query = contacts.BatchReadInputSimplePublicObjectId(properties=["lastname"], properties_with_history=[], inputs=wanted)
        self.assertEqual({"L"}, {r.properties["lastname"] for r in api.batch_api.read(query).results})
        upsert = contacts.SimplePublicObjectBatchInputUpsert(id="new@example.com", id_property="email", properties={"firstname": "N"})
        self.assertTrue(api.batch_api.upsert(contacts.BatchInputSimplePublicObjectBatchInputUpsert(inputs=[upsert])).results[0].new)

        condition = contacts.Filter(property_name="lastname", operator="EQ", value="L")
        request = contacts.PublicObjectSearchRequest(
            filter_groups=[contacts.FilterGroup(filters=[condition])], sorts=["lastname"], properties=["lastname"], limit=2, after="0"
        )
        found = api.search_api.do_search(request)
        self.assertEqual((3, 2, "2"), (found.total, len(found.results), found.paging.next.after))
        self.assertEqual(5, len({c.id for c in api.get_all()}))
        merged = api.basic_api.merge(contacts.PublicMergeInput(primary_object_id=ids[0], object_id_to_merge=ids[1]))
        self.assertEqual(ids[0], merged.id)
        api.batch_api.archive(contacts.BatchInputSimplePublicObjectId(inputs=[contacts.SimplePublicObjectId(id=ids[0])]))
        self.assertEqual([ids[0]], [c.id for c in api.basic_api.get_page(archived=True).results])
        api.basic_api.purge(contacts.PublicGdprDeleteInput(object_id=ids[2]))

    def test_deals_pipelines_and_associations(self):
        pipeline = self.client.crm.pipelines.pipelines_api.get_all("deals").results[0]
        first, second = [s.id for s in pipeline.stages[:2]]
        deal_api = self.client.crm.deals
        values = {"dealname": "D", "dealstage": first, "pipeline": pipeline.id, "amount": "5000"}
        deal = deal_api.basic_api.create(deals.SimplePublicObjectInputForCreate(properties=values, associations=[]))
        moved = deal_api.basic_api.update(deal.id, deals.SimplePublicObjectInput(properties={"dealstage": second}))
        self.assertEqual(second, moved.properties["dealstage"])
        with self.assertRaises(deals.ApiException) as raised:
            deal_api.basic_api.update(deal.id, deals.SimplePublicObjectInput(properties={"dealstage": "nosuch"}))
        self.assertIn("INVALID_OPTION", raised.exception.body)
        query = deals.BatchReadInputSimplePublicObjectId(
            properties=["dealstage", "hs_is_closed"], properties_with_history=["dealstage"], inputs=[deals.SimplePublicObjectId(id=deal.id)]
        )
        read = deal_api.batch_api.read(query).results[0]
        self.assertEqual(([second, first], "false"), ([v.value for v in read.properties_with_history["dealstage"]], read.properties["hs_is_closed"]))

        new = contacts.SimplePublicObjectInputForCreate(properties={"email": "linked@example.com"}, associations=[])
        contact = self.client.crm.contacts.basic_api.create(new)
        api = self.client.crm.associations.v4
        v4 = associations.v4
        api.basic_api.create_default("contacts", contact.id, "deals", deal.id)
        ids = v4.BatchInputPublicFetchAssociationsBatchRequest(inputs=[v4.PublicFetchAssociationsBatchRequest(id=i) for i in (contact.id, "99")])
        batch = api.batch_api.get_page("contacts", "deals", ids)
        self.assertEqual(deal.id, str(batch.results[0].to[0].to_object_id))
        self.assertEqual(1, batch.num_errors)
        page = api.basic_api.get_page("contacts", contact.id, "deals")
        self.assertEqual([4], [t.type_id for t in page.results[0].association_types])
        api.basic_api.archive("contacts", contact.id, "deals", deal.id)
        self.assertEqual([], api.basic_api.get_page("contacts", contact.id, "deals").results)

    def test_properties(self):
        api = self.client.crm.properties
        api.groups_api.create("contacts", properties.PropertyGroupCreate(name="elido", label="Elido"))
        new = properties.PropertyCreate(name="elido_source", label="Source", group_name="elido", type="string", field_type="text")
        self.assertEqual("string", api.core_api.create("contacts", new).type)
        with self.assertRaises(properties.ApiException) as raised:
            api.core_api.create("contacts", new)
        self.assertEqual(409, raised.exception.status)
        self.assertFalse(api.core_api.get_by_name("contacts", "elido_source").modification_metadata.read_only_value)
        known = {p.name for p in api.core_api.get_all("contacts").results}
        self.assertTrue({"elido_source", "hs_analytics_source"} <= known)

    def test_timeline(self):
        developer = self.connect(api_key=DEVELOPER_KEY)
        token = timeline.TimelineEventTemplateToken(name="link", label="Link", type="string", options=[])
        new = timeline.TimelineEventTemplateCreateRequest(name="Click", object_type="contacts", header_template="{{link}}", tokens=[token])
        template = developer.crm.timeline.templates_api.create(APP_ID, new)
        listed = developer.crm.timeline.templates_api.get_all(APP_ID).results
        self.assertEqual([template.id], [t.id for t in listed])
        created = contacts.SimplePublicObjectInputForCreate(properties={"email": "event@example.com"}, associations=[])
        contact = self.client.crm.contacts.basic_api.create(created)
        event = lambda id: timeline.TimelineEvent(event_template_id=template.id, id=id, object_id=contact.id, tokens={"link": "x"})
        api = self.client.crm.timeline.events_api
        self.assertEqual("one", api.create(event("one")).id)
        with self.assertRaises(timeline.ApiException) as raised:
            api.create(event("one"))
        self.assertEqual(409, raised.exception.status)
        # The client reads no body of a 207 here.
        _, status, _ = api.create_batch_with_http_info(timeline.BatchInputTimelineEvent(inputs=[event("one"), event("two")]))
        self.assertEqual(207, status)
        self.assertEqual({"link": "x"}, api.get_by_id(template.id, "two").tokens)

    def test_custom_events(self):
        created = contacts.SimplePublicObjectInputForCreate(properties={"email": "custom@example.com"}, associations=[])
        contact = self.client.crm.contacts.basic_api.create(created)
        link = {"label": "Link", "name": "link", "type": "string"}
        new = {"label": "Link click", "name": "link_click", "includeDefaultProperties": False, "propertyDefinitions": [link]}
        # The client has no call for definitions.
        options = {"method": "POST", "base_url": self.sandbox.url, "path": "/events/v3/event-definitions", "body": new}
        response = self.client.api_request(options)
        name = response.json()["fullyQualifiedName"]
        event = send.BehavioralEventHttpCompletionRequest(
            event_name=name, object_id=contact.id, uuid="u1", properties={"link": "x"}, occurred_at=datetime.now(timezone.utc)
        )
        self.client.events.send.basic_api.send(event)
        again = send.BehavioralEventHttpCompletionRequest(event_name=name, object_id=contact.id, uuid="u2", properties={"link": "y"})
        self.client.events.send.batch_api.send(send.BatchedBehavioralEventHttpCompletionRequest(inputs=[event, again]))
        stored = [e for e in self.sandbox.snapshot()["events"] if e["template_id"] == name]
        self.assertEqual([("u1", "x"), ("u2", "y")], [(e["id"], e["tokens"]["link"]) for e in stored])

    def test_forms(self):
        form = self.sandbox.control("POST", f"/portals/{PORTAL}/forms", {"name": "F", "fields": [{"name": "email", "label": "E-mail"}]})
        listed = self.client.marketing.forms.forms_api.get_page().results
        self.assertEqual([form["guid"]], [f.id for f in listed])
        self.assertEqual("email", self.client.marketing.forms.forms_api.get_by_id(form["guid"]).field_groups[0].fields[0].name)


if __name__ == "__main__":
    unittest.main()
