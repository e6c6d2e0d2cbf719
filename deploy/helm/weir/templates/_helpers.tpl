{{/* The labels of everything. */}}
{{- define "weir.labels" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* The labels that select a component's pods: dict "component" ... "root" $. */}}
{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "weir.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* How the API server is reached, where not by its Service. */}}
{{- define "weir.apiServer" -}}
{{- if .Values.apiServer.host -}}
- {name: KUBERNETES_SERVICE_HOST, value: {{ .Values.apiServer.host | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ .Values.apiServer.port | quote }}}
{{- end }}
{{- end }}

{{- define "weir.metricsListen" -}}
{{ .Values.metrics.listen }}:{{ .Values.metrics.port }}
{{- end }}

{{/* Dropped are all capabilities but these. */}}
{{- define "weir.capabilities" -}}
- BPF
- NET_ADMIN
- PERFMON
{{- if .Values.coordinator.enabled }}
# Announces addresses.
- NET_RAW
{{- end }}
{{- if .Values.podNamespaces }}
# Enters the pods' network namespaces.
- SYS_ADMIN
{{- end }}
{{- end }}
