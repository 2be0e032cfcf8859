{{- define "metaspo.labels" -}}
app.kubernetes.io/name: metaspo
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "metaspo.pod" -}}
automountServiceAccountToken: false
securityContext: {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001, seccompProfile: {type: RuntimeDefault}}
volumes:
  - {name: config, configMap: {name: {{ .Release.Name }}-config}}
  - {name: signing, secret: {secretName: {{ .Values.signingKeySecret }}, defaultMode: 0440}}
  - {name: state, emptyDir: {}}
  - {name: tmp, emptyDir: {}}
{{- end }}

{{- define "metaspo.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
envFrom: [{secretRef: {name: {{ .Values.envSecret }}}}]
env:
  - {name: METASPO_LISTEN, value: "0.0.0.0:8080"}
  - {name: METASPO_SIGNING_KEY, value: /etc/metaspo-signing/signing.key}
  - {name: METASPO_GATEWAY_FORWARDED_ALLOW, value: {{ .Values.gateway.forwardedAllow | quote }}}
  - {name: METASPO_REDIS_URL, valueFrom: {secretKeyRef: {name: {{ .Values.redisUrlSecret }}, key: url}}}
volumeMounts:
  - {name: config, mountPath: /etc/metaspo, readOnly: true}
  - {name: signing, mountPath: /etc/metaspo-signing, readOnly: true}
  - {name: state, mountPath: /var/lib/metaspo}
  - {name: tmp, mountPath: /tmp}
{{- end }}
