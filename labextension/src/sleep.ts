/** Wait for so many milliseconds. */
export function sleep(time_ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, time_ms));
}
