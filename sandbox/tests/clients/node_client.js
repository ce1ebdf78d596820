// HubSpot's own client from npm against the sandbox: `node node_client.js SANDBOX_URL REFRESH_TOKEN EVENT_TYPE`. Prints what it
// checked; fails on the first thing that is not as expected.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { createRequire } from 'node:module'

// From the folder that npm has installed into, which is not this one.
const require = createRequire(`${process.env.CLICKLINE_NODE_MODULES}/`)
const { Client, Signature } = require('@hubspot/api-client')

const [basePath, refreshToken] = process.argv.slice(2)
const CLIENT_ID = 'clickline'
const SECRET = 'sandbox-secret'
const APP_ID = 1000001
const DEVELOPER_KEY = 'sandbox-developer-key'

const connect = (options) => new Client({ basePath, numberOfApiCallRetries: 0, ...options })
const status = async (call) => call.then(() => assert.fail('no error'), (error) => error.code)

const tokens = await connect({}).oauth.tokensApi.create('refresh_token', undefined, undefined, CLIENT_ID, SECRET, refreshToken)
assert.equal(tokens.expiresIn, 1800)
assert.equal(tokens.refreshToken, refreshToken)
assert.equal(await status(connect({}).oauth.tokensApi.create('refresh_token', undefined, undefined, CLIENT_ID, SECRET, 'na1-none')), 400)
const client = connect({ accessToken: tokens.accessToken })
assert.equal((await client.oauth.accessTokensApi.get(tokens.accessToken)).appId, APP_ID)
console.log('ok: oauth')

const { contacts, deals, pipelines, properties, associations, timeline } = client.crm
const ada = await contacts.basicApi.create({ properties: { email: 'ada@example.com' }, associations: [] })
assert.equal((await contacts.basicApi.update(ada.id, { properties: { firstname: 'Ada' } })).properties.firstname, 'Ada')
const read = await contacts.basicApi.getById('ada@example.com', ['firstname'], ['firstname'], undefined, false, 'email')
assert.equal(read.id, ada.id)
assert.equal(read.propertiesWithHistory.firstname[0].value, 'Ada')
assert.equal(await status(contacts.basicApi.getById('99')), 404)
assert.equal(await status(contacts.basicApi.update(ada.id, { properties: { nosuch: 'x' } })), 400)
const made = await contacts.batchApi.create({ inputs: [1, 2, 3].map((n) => ({ properties: { email: `b${n}@example.com` }, associations: [] })) })
const ids = made.results.map((r) => r.id)
const change = (id) => ({ id, properties: { lastname: 'L' }, objectWriteTraceId: id })
const partial = await contacts.batchApi.update({ inputs: [...ids, '99'].map(change) })
assert.deepEqual([partial.results.length, partial.numErrors, partial.errors[0].context.ids], [3, 1, ['99']])
const batch = await contacts.batchApi.read({ properties: ['lastname'], propertiesWithHistory: [], inputs: ids.map((id) => ({ id })) })
assert.deepEqual(new Set(batch.results.map((r) => r.properties.lastname)), new Set(['L']))
const upserted = await contacts.batchApi.upsert({ inputs: [{ id: 'n@example.com', idProperty: 'email', properties: { firstname: 'N' } }] })
assert.equal(upserted.results[0]._new, true)
const filters = [{ propertyName: 'lastname', operator: 'EQ', value: 'L' }]
const found = await contacts.searchApi.doSearch({ filterGroups: [{ filters }], sorts: ['lastname'], properties: ['lastname'], limit: 2, after: '0' })
assert.deepEqual([found.total, found.results.length, found.paging.next.after], [3, 2, '2'])
assert.equal((await contacts.getAll()).length, 5)
assert.equal((await contacts.basicApi.merge({ primaryObjectId: ids[0], objectIdToMerge: ids[1] })).id, ids[0])
await contacts.batchApi.archive({ inputs: [{ id: ids[0] }] })
assert.deepEqual((await contacts.basicApi.getPage(10, undefined, undefined, undefined, undefined, true)).results.map((c) => c.id), [ids[0]])
console.log('ok: contacts, batches and search')

const pipeline = (await pipelines.pipelinesApi.getAll('deals')).results[0]
const [first, second] = pipeline.stages.map((s) => s.id)
const values = { dealname: 'D', dealstage: first, pipeline: pipeline.id, amount: '5000' }
const deal = await deals.basicApi.create({ properties: values, associations: [] })
assert.equal((await deals.basicApi.update(deal.id, { properties: { dealstage: second } })).properties.dealstage, second)
assert.equal(await status(deals.basicApi.update(deal.id, { properties: { dealstage: 'nosuch' } })), 400)
const history = await deals.batchApi.read({ properties: ['amount'], propertiesWithHistory: ['dealstage'], inputs: [{ id: deal.id }] })
assert.deepEqual(history.results[0].propertiesWithHistory.dealstage.map((v) => v.value), [second, first])
console.log('ok: deals and pipelines')

await associations.v4.basicApi.createDefault('contacts', ada.id, 'deals', deal.id)
const pairs = await associations.v4.batchApi.getPage('contacts', 'deals', { inputs: [{ id: ada.id }, { id: ids[2] }] })
assert.equal(String(pairs.results[0].to[0].toObjectId), deal.id)
assert.equal(pairs.numErrors, 1)
assert.equal((await associations.v4.basicApi.getPage('contacts', ada.id, 'deals')).results[0].associationTypes[0].typeId, 4)
await associations.v4.basicApi.archive('contacts', ada.id, 'deals', deal.id)
console.log('ok: associations')

await properties.groupsApi.create('contacts', { name: 'elido', label: 'Elido' })
const property = { name: 'elido_source', label: 'Source', groupName: 'elido', type: 'string', fieldType: 'text' }
assert.equal((await properties.coreApi.create('contacts', property)).modificationMetadata.readOnlyValue, false)
assert.equal(await status(properties.coreApi.create('contacts', property)), 409)
assert.ok((await properties.coreApi.getAll('contacts')).results.some((p) => p.name === 'elido_source'))
console.log('ok: properties')

const developer = connect({ developerApiKey: DEVELOPER_KEY })
const token = { name: 'link', label: 'Link', type: 'string', options: [] }
const template = await developer.crm.timeline.templatesApi.create(APP_ID, {
  name: 'Click', objectType: 'contacts', headerTemplate: '{{link}}', tokens: [token],
})
const event = (id) => ({ eventTemplateId: template.id, id, objectId: ada.id, tokens: { link: 'x' } })
assert.equal((await timeline.eventsApi.create(event('one'))).id, 'one')
assert.equal(await status(timeline.eventsApi.create(event('one'))), 409)
await timeline.eventsApi.createBatch({ inputs: [event('two'), event('three')] })
assert.equal((await timeline.eventsApi.getById(template.id, 'two')).id, 'two')
console.log('ok: timeline')

const link = { label: 'Link', name: 'link', type: 'string' }
const definition = await client.apiRequest({
  method: 'POST', path: '/events/v3/event-definitions',
  body: { label: 'Link click', name: 'link_click', includeDefaultProperties: false, propertyDefinitions: [link] },
})
const eventName = (await definition.json()).fullyQualifiedName
const custom = (uuid) => ({ eventName, objectId: ada.id, uuid, properties: { link: 'x' }, occurredAt: new Date() })
await client.events.send.basicApi.send(custom('one'))
await client.events.send.batchApi.send({ inputs: [custom('one'), custom('two')] })
console.log('ok: custom events')

// What the sandbox sends out, believed by HubSpot's own check of signatures.
const target = createServer().listen(0, '127.0.0.1')
await once(target, 'listening')
const url = `http://127.0.0.1:${target.address().port}/hook?a=b%2Fc`
await developer.webhooks.settingsApi.configure(APP_ID, { targetUrl: url, throttling: { maxConcurrentRequests: 1 } })
await developer.webhooks.subscriptionsApi.create(APP_ID, { eventType: 'deal.propertyChange', propertyName: 'dealstage', active: true })
const arrived = once(target, 'request')
await deals.basicApi.update(deal.id, { properties: { dealstage: first } })
const [request, response] = await arrived
let requestBody = ''
for await (const chunk of request) requestBody += chunk
response.end()
target.close()
// The check takes the address as it is; decoding it, as HubSpot's guide says, is left to the caller.
const sent = {
  signature: request.headers['x-hubspot-signature-v3'], timestamp: Number(request.headers['x-hubspot-request-timestamp']), method: 'POST',
  signatureVersion: 'v3', clientSecret: SECRET, requestBody,
  url: url.replace('%2F', '/'),
}
assert.equal(Signature.isValid(sent), true)
assert.equal(Signature.isValid({ ...sent, requestBody: requestBody.replace('appointment', 'x') }), false)
assert.equal(JSON.parse(requestBody)[0].propertyValue, first)
console.log('ok: webhooks')
