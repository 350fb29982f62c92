import { useEffect } from "preact/hooks";
import type { Client } from "../../model/client.ts";
import { WEB_PUSH_STORAGE_KEY } from "../../model/settings/webPush.ts";
import type { WorkerMessage } from "../../serviceWorker/workerMessage.ts";
import { navigate } from "../currentRoute.ts";
import { listenToServiceWorker } from "./pushBrowser.ts";

/** Does what the service worker asks for, and follows changes of Web Push in other tabs. */
export function useServiceWorker({ webPush }: Client): void {
  useEffect(() => {
    const reload = ({ key }: StorageEvent) => {
      if (key === WEB_PUSH_STORAGE_KEY) void webPush.reloadFromStorage();
    };
    addEventListener("storage", reload);
    const stopListening = listenToServiceWorker((message: WorkerMessage) => {
      switch (message.type) {
        case "acknowledge":
          return void webPush.acknowledge(message.appId, message.ackToken);
        case "open-route":
          return navigate(message.route);
        case "subscription-changed":
          return void webPush.resume();
      }
    });
    return () => {
      removeEventListener("storage", reload);
      stopListening();
    };
  }, []);
}
