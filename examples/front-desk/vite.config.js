import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

export default defineConfig({
  plugins: [react()],
  server: {
    // A preview is reached under a host that is only known at run time.
    allowedHosts: true,
  },
})
