{{/*
Names. Those of a revision end in it, so that several control planes live side by side in one namespace. The Secret weft-ca and
the ConfigMaps weft-ca-roots have no revision: they are the mesh's, and the control plane makes them, not this chart.
*/}}
{{- define "weft.suffix" -}}{{ with .Values.revision }}-{{ . }}{{ end }}{{- end }}

{{- define "weft.name" -}}weft-control-plane{{ include "weft.suffix" . }}{{- end }}

{{/* The namespace, refused where it would be a mistake: it is never injected, and policies in it are the whole mesh's. */}}
{{- define "weft.namespace" -}}
{{- if has .Release.Namespace (list "default" "kube-system" "kube-public" "kube-node-lease") -}}
{{- fail (printf "weft has a namespace of its own, not %s: give --namespace weft-system --create-namespace" .Release.Namespace) -}}
{{- end -}}
{{- .Release.Namespace -}}
{{- end }}

{{- define "weft.controlPlaneImage" -}}
{{- .Values.controlPlane.image | default (printf "%s/control-plane:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion)) -}}
{{- end }}

{{- define "weft.sidecarImage" -}}
{{- .Values.injection.sidecar.image | default (printf "%s/sidecar:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion)) -}}
{{- end }}

{{/* What selects the control plane's pods. Never changes between versions: a Deployment's selector cannot. */}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: weft-control-plane
app.kubernetes.io/instance: {{ include "weft.name" . | quote }}
{{- end }}

{{- define "weft.labels" -}}
{{ include "weft.selector" . }}
app.kubernetes.io/part-of: weft
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "weft.metadata" -}}
name: {{ include "weft.name" . | quote }}
namespace: {{ include "weft.namespace" . | quote }}
labels:
  {{- include "weft.labels" . | nindent 2 }}
{{- end }}

{{/* What the restricted Pod Security Standard asks of a container, and more. */}}
{{- define "weft.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "weft.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Where pods of ours go, and how their image is fetched. */}}
{{- define "weft.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.controlPlane.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.controlPlane.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Of an object that lives as long as a hook: of `events`, in the order of `weight`, called `name`, with more `labels`; Helm shows its
log as `log` says.
*/}}
{{- define "weft.hookMetadata" -}}
name: {{ .name | quote }}
labels:
  app.kubernetes.io/part-of: weft
  app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  helm.sh/hook: {{ .events }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
  {{- with .log }}
  helm.sh/hook-output-log-policy: {{ . }}
  {{- end }}
{{- end }}
