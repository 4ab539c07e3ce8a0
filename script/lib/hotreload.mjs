// Opens a live preview in a real Chromium and watches hot reload.
//
// Reads one JSON object from standard input: {url, address, before, after, screenshot}.
// Prints `ready` once the page shows `before` and its hot-reload WebSocket is open; then waits until
// the page shows `after` without having been loaded again, and prints one JSON object.
//
// The listener's address is given to Chromium by a resolver rule; the installation's own CA is not
// known to it, so certificate errors are ignored here. That the certificate is right is checked by
// every other request of the demo.

import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const require = createRequire(join(process.env.BROWSER_MODULES, 'node_modules', 'x.js'))
const { chromium } = require('playwright-core')

const { url, address, before, after, screenshot } = JSON.parse(readFileSync(0, 'utf8'))
const { hostname } = new URL(url)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
    `--host-resolver-rules=MAP ${hostname} ${address.split(':')[0]}`,
  ],
})
try {
  const page = await browser.newPage({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 800 } })
  const sockets = []
  let loads = 0
  page.on('websocket', (socket) => {
    const seen = { url: socket.url(), received: 0 }
    socket.on('framereceived', () => (seen.received += 1))
    sockets.push(seen)
  })
  page.on('load', () => (loads += 1))
  let failed = []
  page.on('requestfailed', (request) => failed.push(`${request.url()} ${request.failure()?.errorText}`))
  page.on('pageerror', (error) => failed.push(String(error)))
  for (let tries = 1; ; tries++) {
    failed = []
    try {
      await page.goto(url, { waitUntil: 'load', timeout: 60_000 })
      await page.getByText(before, { exact: true }).waitFor({ timeout: 20_000 })
      break
    } catch (error) {
      // Chromium drops what it loads, parts of a page as well, when a network device of this
      // machine appears, and a new sandbox is one.
      process.stderr.write(`the page is loaded again: ${String(error).split('\n')[0]}; ${failed.join('; ')}\n`)
      // Its own error page may come in the way of the next attempt.
      const is_that = /ERR_NETWORK_CHANGED|chrome-error:/.test(`${error} ${failed}`)
      if (tries === 5 || !is_that) throw error
      await page.goto('about:blank').catch(() => {})
    }
  }
  const deadline = Date.now() + 20_000
  while (!sockets.some((socket) => socket.received > 0)) {
    if (Date.now() > deadline) throw new Error('no hot-reload WebSocket was opened')
    await page.waitForTimeout(50)
  }
  const loadsBefore = loads
  await page.evaluate(() => (window.sameDocument = true))
  process.stdout.write('ready\n')
  const start = Date.now()
  await page.getByText(after, { exact: true }).waitFor({ timeout: 30_000 })
  const sameDocument = await page.evaluate(() => window.sameDocument === true)
  if (screenshot) await page.screenshot({ path: screenshot })
  const frames = sockets.reduce((sum, socket) => sum + socket.received, 0)
  process.stdout.write(
    JSON.stringify({ ms: Date.now() - start, sameDocument, reloads: loads - loadsBefore, frames, sockets: sockets.length }) + '\n',
  )
} finally {
  await browser.close()
}
