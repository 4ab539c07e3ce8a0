// Takes the pictures of the README from a demo that keeps running (`script/demo`).
//
//   . script/lib/setup.sh && install_browser
//   BROWSER_MODULES=$BROWSER_MODULES node script/lib/screenshots.mjs docs/images ADDRESS NAME=URL…
//
// ADDRESS is the HTTPS listener (`https` in ready.json). Each URL is shown at desktop and phone
// width, light and dark; NAME.png is the desktop in light, the others carry what they are.

import { createRequire } from 'node:module'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'

const require = createRequire(join(process.env.BROWSER_MODULES, 'node_modules', 'x.js'))
const { chromium } = require('playwright-core')

const [folder, address, ...pages] = process.argv.slice(2)
mkdirSync(folder, { recursive: true })
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', `--host-resolver-rules=MAP * ${address.split(':')[0]}`],
})
try {
  for (const named of pages) {
    const [name, url] = [named.slice(0, named.indexOf('=')), named.slice(named.indexOf('=') + 1)]
    for (const [width, height, size] of [[1280, 800, ''], [390, 844, '-phone']]) {
      for (const [colorScheme, scheme] of [['light', ''], ['dark', '-dark']]) {
        const page = await browser.newPage({ ignoreHTTPSErrors: true, viewport: { width, height }, colorScheme })
        await page.goto(url, { waitUntil: 'load', timeout: 30_000 })
        await page.waitForTimeout(500)
        await page.screenshot({ path: join(folder, `${name}${size}${scheme}.png`) })
        await page.close()
      }
    }
  }
} finally {
  await browser.close()
}
