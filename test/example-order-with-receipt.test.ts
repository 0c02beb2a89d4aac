import type { FastifyInstance } from 'fastify'
import { Client } from 'pg'
import { test, type Test } from 'tap'
import { buildOnPostgres, buildOnSqlite } from '../examples/order-with-receipt'
import { noOwnPostgres, ownPostgres } from './support/services'
import { newFile, noSqlite, rawConnection } from './support/sqlite'
import { until } from './support/until'

/** @param orders the items of the orders in the database */
async function order (t: Test, app: FastifyInstance, orders: () => Promise<unknown[]> | unknown[]): Promise<void> {
  t.teardown(() => app.close())
  await app.ready()
  const place = (item: string, amount: number) => app.inject({ method: 'POST', url: '/orders', body: { item, amount } })
  const responses = await Promise.all([place('book', 2), place('nothing', 0), place('pen', 1), place('less', -1)])
  t.same(responses.map(({ statusCode }) => statusCode), [201, 500, 201, 500])
  for (const response of responses.filter(({ statusCode }) => statusCode === 201)) {
    const { receipt } = response.json<{ receipt: string }>()
    await until('the receipt', async () => (await app.inject(`/receipts/${receipt}`)).json().state === 'completed')
  }
  t.same((await orders()).sort(), ['book', 'pen'])
  t.match(app.backgroundTasks.stats(), { completed: 2, failed: 0 })
  t.equal((await app.inject('/receipts/unknown')).statusCode, 404)
}

test('an order and its receipt on Postgres: both or none', { skip: noOwnPostgres }, async t => {
  // Its orders are in a table of a name that others may have, too.
  const { url } = await ownPostgres(t)
  await order(t, await buildOnPostgres(url), async () => {
    const client = new Client({ connectionString: url })
    await client.connect()
    const { rows } = await client.query('SELECT item FROM orders')
    await client.end()
    return rows.map(({ item }) => item)
  })
})

test('an order and its receipt on SQLite: both or none', { skip: noSqlite }, async t => {
  const file = newFile(t)
  await order(t, await buildOnSqlite(file), () => {
    const database = rawConnection(file)
    const rows = database.prepare('SELECT item FROM orders').all()
    database.close()
    return rows.map(({ item }) => item)
  })
})
