// Package conformance runs the Gateway API's own conformance suite against Weft, in the cluster that KUBECONFIG names:
// run.sh starts one and installs Weft there.
//
// Nothing of the suite is changed or left out. It is told that Weft does everything a test of a mesh asks for, and this
// program fails unless each of those tests ran and passed: the suite itself passes over a test that wants something
// which was not claimed, and its report counts only tests of what a profile knows. So there are two results: the report,
// as the suite writes it, and a list of all tests of a mesh with what came of them.
package conformance

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// Beside the suite's own flags, of which `-report-output` and `-version` are wanted.
var testsOutput = flag.String("tests-output", "", "The file where to write each test of a mesh and what came of it")

// What the profiles of a mesh know beyond their core: all of it.
var extended = []features.FeatureName{
	features.SupportMeshClusterIPMatching,
	features.SupportMeshConsumerRoute,
	features.SupportMeshHTTPRouteBackendRequestHeaderModification,
	features.SupportMeshHTTPRouteNamedRouteRule,
	features.SupportMeshHTTPRouteQueryParamMatching,
	features.SupportMeshHTTPRouteRedirectPath,
	features.SupportMeshHTTPRouteRedirectPort,
	features.SupportMeshHTTPRouteRewritePath,
	features.SupportMeshHTTPRouteSchemeRedirect,
}

// What they do not know, and some tests of a mesh ask for all the same: MeshFrontend, MeshFrontendHostname, MeshPorts,
// MeshConsumerRoute and those of redirects by 303, 307 and 308 do not run without.
var beyond = []features.FeatureName{
	features.SupportHTTPRouteParentRefPort,
	features.SupportHTTPRouteResponseHeaderModification,
	features.SupportHTTPRoute303RedirectStatusCode,
	features.SupportHTTPRoute307RedirectStatusCode,
	features.SupportHTTPRoute308RedirectStatusCode,
}

func TestConformance(t *testing.T) {
	// A later suite may know more: then claim that too, once Weft does it.
	if unclaimed := features.SetsToNamesSet(features.MeshExtendedFeatures).Delete(extended...); unclaimed.Len() > 0 {
		t.Errorf("extended features of a mesh that are not claimed: %v", unclaimed.UnsortedList())
	}

	options := conformance.DefaultOptions(t)
	options.ConformanceProfiles = []suite.ConformanceProfileName{
		suite.MeshHTTPConformanceProfileName,
		suite.MeshGRPCConformanceProfileName,
	}
	options.SupportedFeatures = slices.Concat(extended, beyond)
	options.NamespaceLabels = map[string]string{"weft.dev/inject": "enabled"}
	options.Implementation = confv1.Implementation{
		Organization: "weft",
		Project:      "weft",
		URL:          "https://weft.dev",
		Version:      options.Implementation.Version,
		Contact:      []string{"https://weft.dev"},
	}

	results := map[string]string{}
	// Some tests of gateways, all passed over, end at the same time.
	var lock sync.Mutex
	options.Hook = func(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) {
		lock.Lock()
		defer lock.Unlock()
		switch {
		case t.Failed():
			results[test.ShortName] = "failed"
		case t.Skipped():
			results[test.ShortName] = "skipped"
		default:
			results[test.ShortName] = "passed"
		}
	}
	// Whatever ends the run early, the list says what was left out.
	t.Cleanup(func() { list(t, results, options.RunTest) })
	conformance.RunConformanceWithOptions(t, options)
}

// list writes down what came of each test of a mesh (of `only` that one, if it is not empty), and fails for each that did
// not pass.
func list(t *testing.T, results map[string]string, only string) {
	var lines []string
	for _, test := range tests.ConformanceTests {
		if !slices.Contains(test.Features, features.SupportMesh) || only != "" && only != test.ShortName {
			continue
		}
		result, ran := results[test.ShortName]
		if !ran {
			result = "not run"
		}
		if result != "passed" {
			t.Errorf("%s: %s; it wants %v", test.ShortName, result, test.Features)
		}
		line := result + "\t" + test.ShortName
		if test.Provisional {
			line += " (provisional)"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	text := strings.Join(lines, "\n") + "\n"
	fmt.Print(text)
	if *testsOutput == "" {
		return
	}
	if err := os.WriteFile(*testsOutput, []byte(text), 0o644); err != nil {
		t.Errorf("writing the list of tests: %v", err)
	}
}
