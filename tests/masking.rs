//! Masking: no output of a run shows a secret, whatever programs do with it.
//!
//! The forms come from programs of this machine, so that they are independent of runner's own encoders. Unit tests of
//! the secret module test the masker itself.

use crate::harness::{Project, shell};
use indoc::formatdoc;
use std::collections::BTreeMap;

/// Runs real encoders on secrets and searches every output of the run for pieces of them.
#[test]
fn real_programs_do_not_bring_a_secret_into_any_sink() {
    let phases = r#"
  build:
    steps:
      - name: "step of ${TOKEN}"
        run: |
          set -x
          : "$TOKEN" "$WITH_SYMBOLS"
          set +x
          for value in "$TOKEN" "$WITH_SYMBOLS" "$KEY" "$DOCUMENT" "$UMLAUTS"; do
            export V="$value"
            printf '%s\n' "$value"
            printf '%s' "$value" | base64
            printf '%s' "$value" | base64 -w0; echo
            printf 'user:%s' "$value" | base64 -w0; echo
            printf 'x:%s\n' "$value" | base64 -w0; echo
            for long in k= 'Authorization: Bearer a-long-header ' 0123456789012345678901234567890123456789012345678; do
              printf '%s%s' "$long" "$value" | base64
              printf '%s%s' "$long" "$value" | openssl enc -base64
            done
            python3 -c 'import os, urllib.parse, json, html, xml.sax.saxutils as x; v = os.environb[b"V"]; print(v, html.escape(v.decode()), x.quoteattr(v.decode()), v.decode().encode("ascii", "xmlcharrefreplace"), repr(v.decode()), urllib.parse.quote(v), urllib.parse.quote_plus(v), urllib.parse.quote(urllib.parse.quote(v)), json.dumps(json.dumps(v.decode())), v.hex(":"), sep="\n")'
            (export LC_ALL=C; set -x; : "$value"; printf '%q\n' "$value"; declare -p value)
            printf '%s' "$value" | openssl enc -base64
            printf '%s' "$value" | jq -Rs .
            printf '%s' "$value" | jq -aRs '{v: .}'
            printf '%s' "$value" | jq -Rsr '@uri, @sh, @base64, @json, @html'
            printf '%s' "$value" | od -An -v -tx1 | tr -d ' \n'; echo
            printf '%q\n' "$value"
            printf '%s\n' "${value@Q}"
            printf '%s\r\n' "$value" | sed 's/$/\r/'
            printf '%s' "$value" | tr '\n' '\r'; echo
            for ((at = 0; at < ${#value}; at++)); do printf '%s' "${value:at:1}"; [ $at -gt 60 ] || sleep 0.001; done; echo
          done
          echo "$TOKEN" >&2
          echo "HANDED=$TOKEN" >> "$RUNNER_ENV"
          export TOKEN
      - name: end
        run: 'echo "$HANDED"; exit 3'
"#;
    let key: String = (0..5).map(|at| format!("MIIE{at}QIBADANBgkqhkiG9w0BAQEFAASC/+{at}Kq\\n")).collect();
    let values = BTreeMap::from([
        ("TOKEN", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
        ("WITH_SYMBOLS", "p@ss/w0rd 'x' \\\"$y"),
        ("UMLAUTS", "pässwörd #1~x ''+/="),
        ("DOCUMENT", "{ \\\"user\\\": \\\"administrator\\\",\\n  \\\"password\\\": \\\"correct horse\\\" }"),
    ]);
    let mut env: String = values.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
    env.push_str(&format!("KEY=\"-----BEGIN KEY-----\\n{key}-----END KEY-----\"\n"));
    let names = "TOKEN: /a, WITH_SYMBOLS: /b, DOCUMENT: /c, KEY: /d, UMLAUTS: /e";
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ parameter-store: {{ {names} }} }}
        phases:{phases}notify:
          - {{ slack: "https://example.com/${{TOKEN}}", on: [started, phase-failed, failed] }}
    "#})
    .file("env", &env);
    let outcome = project.runner("run --local --env-file env").run();
    let mut sinks = vec![("stdout", outcome.stdout.clone()), ("stderr", outcome.stderr.clone())];
    sinks.push(("state", project.read(".runner/state.json")));
    for file in shell("find", &[&project.path(".runner").display().to_string(), "-type", "f"]).lines() {
        sinks.push(("file", String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned()));
    }
    let pieces = [
        "16C7e42F292c",
        "w0rd",
        "correct horse",
        "administrator",
        "BADANBgkqh",
        "BEGIN KEY",
        "ssw",
        "1~x",
        // Parts of base64, at three alignments, and of hex.
        "MTZDN2U0MkYyOTJj",
        "E2QzdlNDJGMjkyY",
        "xNkM3ZTQyRjI5Mm",
        "3136433765343246",
        "Y29ycmVjdCBob3Jz",
        "636f727265637420",
    ];
    for (sink, text) in sinks {
        for piece in pieces {
            assert!(!text.contains(piece), "{sink} shows {piece}:\n{text}");
        }
    }
    outcome.exits(1).says("▸ step of ***\n");
}
