// A file input that sends its file to our own route as soon as it is chosen, and tells the page the key.

const sending = new WeakMap();

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1000))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".upload");
  const input = root.querySelector("input");
  const state = root.querySelector(".state");
  const bar = root.querySelector("progress");
  root.querySelector(".name").textContent = data.label;
  root.querySelector(".hint").textContent = data.hint;
  input.setAttribute("aria-label", data.label);
  input.accept = data.accept;
  input.disabled = Boolean(data.disabled);

  function say(text, wrong) {
    state.textContent = text;
    state.className = wrong ? "state wrong" : "state";
    state.setAttribute("role", wrong ? "alert" : "status");
  }

  input.onchange = () => {
    const file = input.files[0];
    sending.get(root)?.abort();
    if (!file) return;
    if (file.size > data.limit_mb * 1e6) {
      say(`${file.name} has ${megabytes(file.size)}; at most ${data.limit_mb} MB are taken. ${data.instead}`, true);
      input.value = "";
      return;
    }
    const request = new XMLHttpRequest();
    sending.set(root, request);
    bar.hidden = false;
    bar.value = 0;
    say(`Sending ${file.name}, ${megabytes(file.size)}`);
    request.upload.onprogress = (event) => { bar.value = event.loaded / Math.max(1, event.total); };
    const fail = (text) => {
      bar.hidden = true;
      input.value = "";  // the same file can be chosen again
      say(text, true);
    };
    request.onload = () => {
      if (request.status !== 200) return fail(request.responseText || "The server did not take the file.");
      bar.hidden = true;
      say(`${file.name}, ${megabytes(file.size)}`);
      setStateValue("upload", JSON.parse(request.responseText));
    };
    request.onerror = () => fail("The server could not be reached. Check the connection and choose the file again.");
    request.open("POST", `/api/import/uploads?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.send(file);
  };

  return () => { input.onchange = null; };
}
