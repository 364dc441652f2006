/** What the panel uses of React's own part for pages, which comes without types. */
declare module 'react-dom/client' {
  import type { ReactElement } from 'react';

  export interface Root {
    render(element: ReactElement): void;
    unmount(): void;
  }

  export function createRoot(
    container: Element,
    options?: { identifierPrefix?: string }
  ): Root;
}
